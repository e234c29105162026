//! The program as its users meet it: started as a process, judged by what it prints, writes and returns.

mod asked;
mod attribution;
mod benchmark;
mod browser;
mod cli;
mod compare;
mod data;
mod gate;
mod hostile;
mod index;
mod interrupt;
#[cfg(target_os = "linux")]
mod memory;
mod pipeline;
mod program;
mod view;
