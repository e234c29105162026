#!/usr/bin/env python3
"""Make link-time stand-ins for the CUDA libraries, from cudarc's own declarations.

usage: link_stubs.py CUDARC_SRC OUT_DIR

OUT_DIR/shared/lib/lib{cuda,nvrtc,...}.so : shared stubs with the real SONAMEs; the program then needs the
                                           real libraries when it is loaded (NVIDIA's own way of linking).
OUT_DIR/lazy/lib/lib{cuda,nvrtc,...}.a    : x86-64 trampolines that dlopen the real library at the first
                                           call; the program then starts on a machine without any of them.
"""
import os, re, subprocess, sys

# name -> (module in cudarc, sonames tried at run time, code returned when the library is absent)
LIBS = {
    "cuda":     ("driver",   ["libcuda.so.1"], 303),          # CUDA_ERROR_SHARED_OBJECT_INIT_FAILED
    "nvrtc":    ("nvrtc",    ["libnvrtc.so.13"], 11),         # NVRTC_ERROR_INTERNAL_ERROR
    "curand":   ("curand",   ["libcurand.so.10"], 203),       # CURAND_STATUS_INITIALIZATION_FAILED
    "cublas":   ("cublas",   ["libcublas.so.13"], 1),         # CUBLAS_STATUS_NOT_INITIALIZED
    "cublasLt": ("cublaslt", ["libcublasLt.so.13"], 1),
    "cudnn":    ("cudnn",    ["libcudnn.so.9"], 1001),        # CUDNN_STATUS_NOT_INITIALIZED (v9)
    "nccl":     ("nccl",     ["libnccl.so.2"], 2),            # ncclSystemError
}

def functions(src, module):
    text = open(os.path.join(src, "src", module, "sys", "mod.rs")).read()
    out = {}
    for m in re.finditer(r'extern "C" \{\s*fn (\w+)\(.*?\)\s*(?:->\s*([^;]+?))?;\s*\}', text, re.S):
        ret = (m.group(2) or "").strip()
        kind = "text" if "c_char" in ret else "zero" if ret in ("", "usize") else "code"
        if "c_char" not in ret and ret.startswith("*"):
            kind = "zero"
        out[m.group(1)] = kind
    names = set(re.findall(r'pub unsafe fn (\w+)\(', text)) - {"is_culib_present", "culib"}
    missing = names - set(out)
    if missing:
        sys.exit(f"{module}: no declaration found for {sorted(missing)}")
    return dict(sorted(out.items()))

def run(*cmd):
    subprocess.run(cmd, check=True)

RESOLVER = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define H __attribute__((visibility("hidden")))
extern H void *%(l)s__table[];
static const char *const names[] = { %(names)s };
static const char kinds[] = "%(kinds)s";
static const char *const sonames[] = { %(sonames)s, 0 };
static char why[512] = "lib%(l)s: not loaded";
static void *handle; static int tried;

static int fail_code(void) { return %(code)d; }
static unsigned long fail_zero(void) { return 0; }
static const char *fail_text(void) { return why; }
%(extra)s
static void load(void) {
    for (int i = 0; sonames[i] && !handle; i++) {
        handle = dlopen(sonames[i], RTLD_NOW | RTLD_GLOBAL);
        if (!handle) { const char *e = dlerror(); snprintf(why, sizeof why, "%%s", e ? e : "dlopen failed"); }
    }
    /* That there is no driver, or no NCCL, the program says itself; another library missing is worth a line. */
    if (!handle && strcmp("%(l)s", "cuda") && strcmp("%(l)s", "nccl")) fprintf(stderr, "%%s\n", why);
    __atomic_store_n(&tried, 1, __ATOMIC_RELEASE);
}
/* Called by the assembly below at the first call of each function; racing threads do the same work twice. */
H void *%(l)s__resolve(long i) {
    if (!__atomic_load_n(&tried, __ATOMIC_ACQUIRE)) load();
    void *p = handle ? dlsym(handle, names[i]) : 0;
    if (!p) {
        if (handle) snprintf(why, sizeof why, "lib%(l)s has no %%s", names[i]);
        %(special)s
        p = kinds[i] == 't' ? (void *)fail_text : kinds[i] == 'z' ? (void *)fail_zero : (void *)fail_code;
    }
    __atomic_store_n(&%(l)s__table[i], p, __ATOMIC_RELEASE);
    return p;
}
'''

CUDA_EXTRA = r'''
static int fail_string(int e, const char **s) { (void)e; *s = why; return 0; }
'''
CUDA_SPECIAL = r'''if (!strcmp(names[i], "cuGetErrorString") || !strcmp(names[i], "cuGetErrorName"))
            p = (void *)fail_string; else'''

def lazy(lib, fns, sonames, code, out, tmp):
    c = RESOLVER % dict(
        l=lib, names=", ".join(f'"{f}"' for f in fns),
        kinds="".join(k[0] for k in fns.values()),
        sonames=", ".join(f'"{s}"' for s in sonames), code=code,
        extra=CUDA_EXTRA if lib == "cuda" else "", special=CUDA_SPECIAL if lib == "cuda" else "")
    s = [".text"]
    for i, f in enumerate(fns):
        s += [f".globl {f}", f".type {f},@function", f"{f}:",
              f"    jmp *{lib}__table+{8*i}(%rip)", f".size {f},.-{f}",
              f"{lib}__slow{i}:", f"    pushq ${i}", f"    jmp {lib}__common"]
    # At entry: [rsp] = index, [rsp+8] = caller's return address; rsp is 16-aligned here.
    s += [f"{lib}__common:",
          "    pushq %rdi; pushq %rsi; pushq %rdx; pushq %rcx; pushq %r8; pushq %r9; pushq %rax; pushq %r10",
          "    subq $128, %rsp"]
    s += [f"    movups %xmm{k}, {16*k}(%rsp)" for k in range(8)]
    s += ["    movq 192(%rsp), %rdi", f"    call {lib}__resolve", "    movq %rax, %r11"]
    s += [f"    movups {16*k}(%rsp), %xmm{k}" for k in range(8)]
    s += ["    addq $128, %rsp",
          "    popq %r10; popq %rax; popq %r9; popq %r8; popq %rcx; popq %rdx; popq %rsi; popq %rdi",
          "    addq $8, %rsp", "    jmp *%r11",
          ".section .data.rel,\"aw\"", ".balign 8", f".globl {lib}__table", f".hidden {lib}__table", f"{lib}__table:"]
    s += [f"    .quad {lib}__slow{i}" for i in range(len(fns))]
    s += ['.section .note.GNU-stack,"",@progbits', ""]
    open(f"{tmp}/{lib}.c", "w").write(c)
    open(f"{tmp}/{lib}_t.s", "w").write("\n".join(s))
    run("gcc", "-O2", "-fPIC", "-Wall", "-c", f"{tmp}/{lib}.c", "-o", f"{tmp}/{lib}.o")
    run("gcc", "-c", f"{tmp}/{lib}_t.s", "-o", f"{tmp}/{lib}_t.o")
    a = f"{out}/lazy/lib/lib{lib}.a"
    if os.path.exists(a):
        os.remove(a)
    run("ar", "rcs", a, f"{tmp}/{lib}.o", f"{tmp}/{lib}_t.o")

def shared(lib, fns, soname, code, out, tmp):
    c = []
    for f, kind in fns.items():
        if kind == "text":
            c.append(f'const char *{f}(void) {{ return "stub lib{lib}"; }}')
        elif kind == "zero":
            c.append(f"unsigned long {f}(void) {{ return 0; }}")
        elif f in ("cuGetErrorString", "cuGetErrorName"):
            c.append(f'int {f}(int e, const char **s) {{ *s = "link stub of libcuda.so.1, no driver here"; return 0; }}')
        else:
            c.append(f"int {f}(void) {{ return {34 if lib == 'cuda' else code}; }}")
    open(f"{tmp}/{lib}_so.c", "w").write("\n".join(c) + "\n")
    path = f"{out}/shared/lib/lib{lib}.so"
    run("gcc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{soname}", f"{tmp}/{lib}_so.c", "-o", path)
    link = f"{out}/shared/lib/{soname}"
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(f"lib{lib}.so", link)

def main():
    src, out = sys.argv[1:3]
    tmp = f"{out}/obj"
    for d in ("shared/lib", "lazy/lib", "obj"):
        os.makedirs(f"{out}/{d}", exist_ok=True)
    for lib, (module, sonames, code) in LIBS.items():
        fns = functions(src, module)
        lazy(lib, fns, sonames, code, out, tmp)
        shared(lib, fns, sonames[0], code, out, tmp)
        print(f"{lib}: {len(fns)} functions")

main()
