//! Compiles `cuda/*.cu` for the GPU that `CUDA_COMPUTE_CAP` names, where the feature `cuda` is on; gpu/README.md.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(hopper)");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
}

/// One binary a source file, `OUT_DIR/NAME.cubin`; for Hopper one more, and `cfg(hopper)`.
fn compile() {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    for name in ["CUDA_HOME", "CUDA_COMPUTE_CAP", "NVCC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let nvcc = variable("NVCC").or_else(|| variable("CUDA_HOME").map(|home| format!("{home}/bin/nvcc")));
    let nvcc = nvcc.unwrap_or_else(|| "nvcc".to_owned());
    let capability = variable("CUDA_COMPUTE_CAP").unwrap_or_else(|| "90".to_owned());
    let out = PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let mut sources =
        ["rows", "attention", "attention_bf16", "head", "adamw"].map(|name| (name, capability.clone())).to_vec();
    if capability == "90" {
        println!("cargo::rustc-cfg=hopper");
        // Products of warpgroups are in no other architecture's instructions than this one's.
        sources.push(("attention_hopper", "90a".to_owned()));
    }
    let running: Vec<_> = sources
        .into_iter()
        .map(|(name, capability)| {
            let source = Path::new("cuda").join(format!("{name}.cu"));
            let mut command = Command::new(&nvcc);
            command.args(["-cubin", "-O3", "-std=c++17", "-Werror", "all-warnings"]);
            command.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
            command.arg(&source).arg("-o").arg(out.join(format!("{name}.cubin")));
            let child =
                command.spawn().unwrap_or_else(|error| panic!("cannot run `{nvcc}`: {error}; see gpu/README.md"));
            (source, child)
        })
        .collect();
    for (source, mut child) in running {
        let status = child.wait().expect("a compiler that was started can be waited for");
        assert!(status.success(), "nvcc failed on kernels/{}", source.display());
    }
}
