"""What `gpu/check` does; see there."""
import datetime
import json
import lzma
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
QUICK = os.environ.get("STEPS") == "1"
# Threads of what is computed on the CPU beside.
THREADS = "8"
# `cpu` tries the script itself where there is no GPU.
DEVICE = os.environ.get("DEVICE", "cuda")
DEADLINE = time.monotonic() + float(os.environ.get("LIMIT_S", "530"))


def unpack(folder, name, to):
    """The program, from its .xz where it lies packed."""
    path, target = os.path.join(folder, name), os.path.join(to, name)
    data = lzma.open(path + ".xz").read() if os.path.exists(path + ".xz") else open(path, "rb").read()
    with open(target, "wb") as file:
        file.write(data)
    os.chmod(target, 0o755)
    return target


def environment():
    """The CUDA libraries that PyTorch brought, behind those that are found anyway."""
    import nvidia

    root = list(nvidia.__path__)[0]
    paths = [os.environ.get("LD_LIBRARY_PATH", ""), f"{root}/cu13/lib"]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths)), "RUST_BACKTRACE": "0", "KERNELS_NEED_GPU": "1"}


class Watch:
    """Clock and power of the GPU while a command runs: the medians of the readings at no less than nine tenths of the highest power."""

    def __enter__(self):
        query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self.process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            self.process = None
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()

    def reading(self):
        """What was read, to be added to what the command found."""
        if not self.process:
            return {}
        self.process.kill()
        lines = (line.split(",") for line in self.process.communicate()[0].splitlines())
        readings = [tuple(map(float, line)) for line in lines if len(line) == 2 and all(map(is_number, line))]
        if not readings:
            return {}
        most = max(power for _, power in readings)
        busy = [reading for reading in readings if reading[1] >= 0.9 * most]
        clock, power = (statistics.median(values) for values in zip(*busy))
        return {"clock_mhz": clock, "power_w": power}


def is_number(text):
    return re.fullmatch(r"\s*[\d.]+\s*", text) is not None


def run(name, command, env, out, limit=120):
    """Runs a command; its last line as JSON where it is any, and what went wrong otherwise."""
    limit = min(limit, DEADLINE - time.monotonic())
    if limit < 5:
        return {"error": "not run: no time was left"}
    clock = time.monotonic()
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not ended after {limit:.0f} s"}
    with open(os.path.join(out, "log.txt"), "a") as log:
        log.write(f"== {name}: {' '.join(command)}\n{done.stdout[-20000:]}\n{done.stderr[-8000:]}\n")
    print(f"{name}: {time.monotonic() - clock:.1f} s, exit {done.returncode}", flush=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines and lines[-1].startswith("{"):
        return json.loads(lines[-1])
    if name == "tests":
        summary = [line for line in lines if line.startswith("test result") or "FAILED" in line or "panicked" in line]
        return {"ok": done.returncode == 0, "summary": summary}
    return {"error": (done.stderr.strip().splitlines() or lines or ["no output"])[-1][:300]}


def together(name, commands, env, out, limit):
    """Runs commands at the same time; for each its output and seconds, or what went wrong."""
    limit = min(limit, DEADLINE - time.monotonic())
    if limit < 5:
        return [{"error": "not run: no time was left"}] * len(commands)
    started, running = time.monotonic(), []
    for i, command in enumerate(commands):
        file = open(os.path.join(out, f"{name}-{i}.txt"), "w+")
        running.append((command, file, subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)))
    seconds = {}
    while len(seconds) < len(running) and time.monotonic() - started < limit:
        for i, (_, _, process) in enumerate(running):
            if i not in seconds and process.poll() is not None:
                seconds[i] = time.monotonic() - started
        time.sleep(0.05)
    found = []
    for i, (command, file, process) in enumerate(running):
        if i not in seconds:
            process.kill()
        process.wait()
        file.seek(0)
        text = file.read()
        file.close()
        with open(os.path.join(out, "log.txt"), "a") as log:
            log.write(f"== {name}: {' '.join(command)}\n{text[-20000:]}\n")
        print(f"{name} {i}: {seconds.get(i, limit):.1f} s, exit {process.returncode}", flush=True)
        if i not in seconds:
            found.append({"error": f"not ended after {limit:.0f} s"})
        elif process.returncode != 0:
            found.append({"error": (text.strip().splitlines() or ["no output"])[-1][:300]})
        else:
            found.append({"seconds": seconds[i], "text": text})
    return found


# A line of `phasetrace probe`: checkpoint, behaviour and form, then the value with its interval.
CELL = re.compile(r"^(\S+  .*?\S)\s+([\d.]+)  95 % interval ([\d.]+) to ([\d.]+) ")


def cells(answers):
    """What `probe` printed: value, low and high by cell."""
    matches = (CELL.match(line) for line in answers.get("text", "").splitlines())
    return {match[1]: tuple(map(float, match.groups()[1:])) for match in matches if match}


def rollouts(run):
    """Tokens that RLHF sampled, traced and rewarded in a second of that: the median of its rounds."""
    with open(os.path.join(run, "logs", "rlhf.jsonl")) as file:
        rounds = [json.loads(line) for line in file]
    return statistics.median(r["answers"] * r["response_tokens"] / r["sampling_s"] for r in rounds if "sampling_s" in r)


def small_world(program, work, env, out):
    """The small world through all phases on the GPU, and on the CPU beside; both are asked the same, and the second on both devices."""
    gpu, cpu, again = (os.path.join(work, name) for name in ("on_gpu", "on_cpu", "asked_on_gpu"))
    train = [program, "train", "--quiet", "--set", 'alignment=["rlhf","dpo","constitutional"]']
    commands = [[*train, gpu, "--device", DEVICE], [*train, cpu, "--threads", THREADS]]
    trained = dict(zip(("gpu", "cpu"), together("small_world", commands, env, out, 270)))
    found = {name: {key: outcome[key] for key in ("seconds", "error") if key in outcome} for name, outcome in trained.items()}
    for name, run in (("gpu", gpu), ("cpu", cpu)):
        if "seconds" in found[name]:
            found[name]["rollout_tokens_per_s"] = rollouts(run)
    ask = [program, "probe", "--quiet", "--limit", "40"]
    on_gpu, on_cpu = ([*ask, gpu, "--device", DEVICE], [*ask, cpu, "--threads", THREADS])
    if "error" in trained["cpu"] and "seconds" in found["gpu"]:
        # That it can be asked shows even where there is nothing to compare it with.
        (of_gpu,) = together("ask", [on_gpu], env, out, 100)
        found["asked"] = {"gpu's on the gpu": of_gpu.get("seconds", of_gpu.get("error"))}
    if any("error" in outcome for outcome in trained.values()):
        return found
    of_gpu, of_cpu = together("ask", [on_gpu, on_cpu], env, out, 150)
    (again,) = together("ask_again", [[*ask, cpu, "--device", DEVICE, "-o", again]], env, out, 100)
    asked = {"gpu's on the gpu": of_gpu, "cpu's on the cpu": of_cpu, "cpu's on the gpu": again}
    found["asked"] = {name: outcome.get("seconds", outcome.get("error")) for name, outcome in asked.items()}
    of_gpu, of_cpu, again = map(cells, (of_gpu, of_cpu, again))

    def compare(ours, differ):
        both = sorted(ours.keys() & of_cpu.keys())
        return {"n": len(both), "differ": {name: (ours[name], of_cpu[name]) for name in both if differ(ours[name], of_cpu[name])}}

    found["trained_apart"] = compare(of_gpu, lambda a, b: a[1] > b[2] or b[1] > a[2])
    found["asked_apart"] = compare(again, lambda a, b: a[0] != b[0])
    return found


def main():
    folder, work, out = sys.argv[1:]
    env = environment()
    ours, tests, program = (unpack(folder, name, work) for name in ("gpu_steps", "kernel_tests", "phasetrace"))
    peer = [sys.executable, os.path.join(HERE, "peer.py")]
    commit = os.path.join(folder, "commit")
    found = {"date": datetime.date.today().isoformat(),
             "commit": open(commit).read().strip() if os.path.exists(commit) else "unknown"}
    small, large = os.path.join(work, "S"), os.path.join(work, "L")
    n_train, n_flat = 41 if QUICK else 200, 5000

    def step(name, command, limit=120):
        with Watch() as watch:
            found[name] = run(name, command, env, out, limit)
            if "tokens_per_s" in found[name]:
                found[name].update(watch.reading())
        with open(os.path.join(out, "check.json"), "w") as file:
            json.dump(found, file, indent=1)

    step("tests", [tests, "--test-threads=1"], 200)
    step("write_S", [ours, "write", "S", small])
    step("agree", [ours, "agree", "S", small])
    step("write_L", [ours, "write", "L", large])
    step("train_L", [ours, "train", "L", large, str(n_train)])
    step("peer_train_L", [*peer, "train", "L", large, str(n_train)])
    step("recompute_L", [ours, "recompute", "L", large, str(n_train)])
    step("kernels", [ours, "kernels"])
    step("peer_kernels", [*peer, "kernels"])
    step("decode_L", [ours, "decode", "L", large])
    step("peer_decode_L", [*peer, "decode", "L", large])
    step("train_S", [ours, "train", "S", small, str(n_train)])
    step("peer_train_S", [*peer, "train", "S", small, str(n_train)])
    step("peer_compile_L", [*peer, "train", "L", large, str(n_train), "compile"], 150)
    step("flat", [ours, "train", "S", small, str(n_flat)], 150)
    found["small_world"] = small_world(program, work, env, out)
    with open(os.path.join(out, "check.json"), "w") as file:
        json.dump(found, file, indent=1)
    table = render(found)
    with open(os.path.join(out, "check.md"), "w") as file:
        file.write(table)
    print(table)
    passed = found["tests"].get("ok") and found["agree"].get("ok_f32") and found["agree"].get("ok_bf16")
    passed = passed and "seconds" in found["small_world"]["gpu"]
    sys.exit(0 if passed else 1)


def render(found):
    """One table of what was found."""
    def value(name, key, form="{:,.0f}"):
        return form.format(found[name][key]) if key in found.get(name, {}) else "not measured"

    def memory(name):
        readings = found.get(name, {}).get("memory_bytes")
        return f"{readings[0] / 2**20:,.0f} to {readings[-1] / 2**20:,.0f} MiB" if readings else "not measured"

    def error(name, key):
        return value(name, key, "{:.1e}")

    def times(measured):
        return " / ".join(f"{ms:.3f} ms" for ms in measured.values())

    training = ("train_L", "peer_train_L", "peer_compile_L")
    tests = found["tests"].get("summary", [found["tests"].get("error", "")])
    n_steps, n_flat = (found.get(name, {}).get("steps", 0) for name in ("train_L", "flat"))
    rows = [
        ("tests of `kernels` on the GPU (f32 1e-5, bf16 1e-2, chains of steps in bf16 2e-2)", tests[-1], "", ""),
        ("worst gradient of a whole model against f32 on the CPU, f32 / bf16",
         f"{error('agree', 'worst_gradient_f32')} / {error('agree', 'worst_gradient_bf16')}", "", ""),
        ("124M, training: tokens/s", *(value(name, "tokens_per_s") for name in training)),
        ("124M, training: MFU", *(value(name, "mfu", "{:.1%}") for name in training)),
        ("124M: clock of the multiprocessors and power meanwhile", *(clock(found.get(name, {})) for name in training)),
        ("124M, activations computed again (`--recompute`): tokens/s; memory from step 11 to the end",
         f"{value('recompute_L', 'tokens_per_s')}; {memory('recompute_L')}", "", ""),
        (f"124M: loss at step {max(n_steps - 1, 0) // 20 * 20 + 1}, nats", *(last_loss(found, name) for name in training)),
        ("small world's model, training: tokens/s", value("train_S", "tokens_per_s"), value("peer_train_S", "tokens_per_s"), ""),
        ("124M, decoding 64 rows: tokens/s (`transformers.generate`)", value("decode_L", "tokens_per_s"),
         value("peer_decode_L", "tokens_per_s"), ""),
        ("124M, drawing 64 rows at temperature 1: tokens/s", value("decode_L", "drawn_tokens_per_s"), "", ""),
        ("memory in use from step 11 to the end: 124M", memory("train_L"), "", ""),
        (f"the same over {n_flat:,} steps of the small world's model", memory("flat"), "", ""),
    ]
    rows += world(found.get("small_world", {}))
    peer = found.get("peer_kernels", {})
    for name, measured in found.get("kernels", {}).items():
        if isinstance(measured, dict):
            sdpa = f"{times(peer['sdpa'])} (SDPA, not rotated)" if name == "rope_attention" and "sdpa" in peer else ""
            label = f"`{name}`, forward / and backward" if "forward_ms" in measured else f"`{name}`, a step"
            rows.append((label, times(measured), sdpa, ""))
    lines = [f"{found['date']}, {peer.get('device', 'device unknown')}, commit {found['commit']}", "",
             "| what | phasetrace | PyTorch eager | compiled |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if "copy_tb_per_s" in peer:
        lines += ["", f"Ceilings of that card: bf16 product of 8,192 {peer['product_8192_tflop_per_s']:.0f} TFLOP/s, copy "
                      f"{peer['copy_tb_per_s']:.1f} TB/s; torch {peer['torch']}."]
    return "\n".join(lines) + "\n"


def world(found):
    """Rows about the small world, trained and asked by the program itself."""
    def of(name, key, form):
        outcome = found.get(name, {})
        return form.format(outcome[key]) if key in outcome else outcome.get("error", "not measured")

    def count(name):
        outcome = found.get(name, {"n": 0})
        return f"{len(outcome['differ'])} of {outcome['n']}" if outcome["n"] else "not measured"

    return [
        (f"`phasetrace train` of the small world, all phases: GPU; {THREADS} CPU threads",
         f"{of('gpu', 'seconds', '{:.0f} s')}; {of('cpu', 'seconds', '{:.0f} s')}", "", ""),
        ("RLHF's rollouts there (sampled, traced, rewarded), tokens/s: GPU; CPU",
         f"{of('gpu', 'rollout_tokens_per_s', '{:,.0f}')}; {of('cpu', 'rollout_tokens_per_s', '{:,.0f}')}", "", ""),
        ("behaviours (by checkpoint and form) whose 95 % intervals are apart: trained and asked on the GPU, and on the CPU",
         count("trained_apart"), "", ""),
        ("behaviours that differ at all: the run of the CPU asked on the GPU, and on the CPU", count("asked_apart"), "", ""),
    ]


def clock(outcome):
    return "{clock_mhz:,.0f} MHz, {power_w:.0f} W".format(**outcome) if "clock_mhz" in outcome else "not measured"


def last_loss(found, name):
    losses = found.get(name, {}).get("losses")
    return f"{losses[-1]:.4f}" if losses else "not measured"


main()
