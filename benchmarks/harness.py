"""Runs contenders side by side: one process each, kept alive, runs interleaved, medians reported.

A benchmark script calls `race` for each case. `race` starts the script again once per contender (`--worker NAME`),
where `serve` obeys commands that arrive as JSON lines, so that only one process computes at any moment. The shapes, the
description of the machine, tables, JSON and the README's sections are here too.
"""

import argparse
import contextlib
import ctypes
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "benchmarks" / "README.md"
CPU_INFO = Path("/proc/cpuinfo")
# What decides the speed of small precisions, by the kernel's names for it.
FEATURES = {
    "AVX-512": "avx512f",
    "AVX-512 VNNI": "avx512_vnni",
    "AVX-512 bfloat16": "avx512_bf16",
    "AMX int8": "amx_int8",
    "AMX bfloat16": "amx_bf16",
}
PACKAGES = ("tensorflow", "keras", "keras-hub", "jax", "torch", "transformers", "ctranslate2", "numpy")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# Sizes go by the argument names of `build_gpt`; every feed-forward is 4 times as wide as the model.
SHAPES: dict[str, dict[str, int]] = {
    "tiny": dict(num_layers=2, num_heads=2, hidden_dim=64, vocabulary_size=512, max_sequence_length=256),
    "small": dict(num_layers=6, num_heads=6, hidden_dim=384, vocabulary_size=8192, max_sequence_length=256),
    "gpt2": dict(num_layers=12, num_heads=12, hidden_dim=768, vocabulary_size=50257, max_sequence_length=1024),
}

# Workers see no accelerator and no network. Thread pools keep their own defaults: the pause after each run is longer
# than any of them spins, so nobody is slowed and nobody disturbs the next.
WORKER_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}
NO_RUNS = ("failed", "left_out", "skipped")  # a broken contender, one that cannot do the case, one not installed
PAUSE = 0.5  # seconds; the longest known spin is 0.2 (OpenMP of Intel)


class LeftOut(Exception):
    """Raised by a contender that cannot take part in a case, for example for want of memory; its text says why."""


class Contender(Protocol):
    """What a worker holds: built by the script's factory, then asked for runs that are all alike.

    What it puts into a dict `found`, if it has one, is in the results.
    """

    def run(self) -> int:
        """Does one run and returns how many tokens it processed; raises if it did anything else than asked."""

    def verify(self) -> None:
        """Raises unless a run really did all the work that `run` claims. Called once, untimed."""


# In the worker


class Service:
    """What a worker does at a request: `prepare` (build, first run, verify, warm-up), `run` and anything else, the end.

    Args:
        make: builds the contender from the case that `prepare` brings.
    """

    def __init__(self, make: Callable[[dict[str, Any]], Contender]):
        self._make = make
        self._contender: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What was measured; or `skipped`, `left_out` or `failed`, with the reason."""
        try:
            if request["command"] == "prepare":
                return self._prepare(request["case"])
            if request["command"] == "run":
                seconds, tokens = self._timed_run()
                return {"seconds": seconds, "tokens": tokens}
            return {"peak_memory_mb": memory_mb("VmHWM"), **getattr(self._contender, "found", {})}
        except ImportError as error:
            return {"skipped": str(error)}
        except LeftOut as error:
            return {"left_out": str(error)}
        except Exception as error:
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {error}"}

    def _prepare(self, case):
        start = time.perf_counter()
        self._contender = self._make(case)
        answer = {"build_seconds": time.perf_counter() - start, "memory_at_start_mb": memory_mb("VmRSS")}
        answer["first_call_seconds"] = self._timed_run()[0]
        self._contender.verify()
        self._contender.run()  # warm-up
        return answer

    def _timed_run(self):
        start = time.perf_counter()
        tokens = self._contender.run()
        return time.perf_counter() - start, tokens


def serve(make: Callable[[dict[str, Any]], Contender]) -> None:
    """Answers the requests that come as JSON lines, until the input ends; see `Service`."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print must not mix with the replies
    service = Service(make)
    for line in sys.stdin:
        replies.write(json.dumps(service.answer(json.loads(line))) + "\n")


def memory_mb(field: str) -> float:
    """Resident memory of this process: "VmRSS" now, "VmHWM" at its peak (which is both where there is no /proc)."""
    try:
        return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """The peak memory counts from now on: what building took for a moment is given back first."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


# In the script


class Worker:
    """A contender's process: `ask` sends one command and waits for its answer."""

    def __init__(self, module: str, name: str, environment: dict[str, str] | None = None):
        self.name = name
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(WORKER_ENVIRONMENT if environment is None else environment)},
        )

    def ask(self, command: str, **details: Any) -> dict[str, Any]:
        """The worker's answer; `{"failed": reason}` if it died. Prints the worker's last words when it failed."""
        try:
            self._process.stdin.write(json.dumps({"command": command, **details}) + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        answer = json.loads(reply) if reply else {"failed": f"the process ended with status {self._process.wait()}"}
        if "failed" in answer:
            self._log.seek(0)
            say(f"{self.name} failed; the end of its log:\n" + "".join(self._log.readlines()[-15:]))
        return answer

    def stop(self) -> None:
        """Ends the process: it leaves when its input ends."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def race(
    module: str,
    case: dict[str, Any],
    contenders: Iterable[str],
    rounds: int,
    environment: dict[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs one case with every contender in turn and returns what each reached.

    Args:
        module: the benchmark's module, started with `-m MODULE --worker NAME`.
        case: what the contender's factory needs, in JSON types.
        contenders: names; the first of each round changes from round to round.
        rounds: timed runs of each contender.
        environment: added to that of the workers. Default: `WORKER_ENVIRONMENT`.

    Returns:
        By name: `tokens_per_second` (from the median run), `seconds` of every run, their `spread` (slowest / fastest),
        `median_seconds`, `first_call_seconds` (tracing and compiling included), `build_seconds`, `peak_memory_mb` and
        `memory_above_start_mb` (after the contender was built); or `skipped`, `left_out` or `failed` with the
        reason.
    """
    results: dict[str, dict[str, Any]] = {}
    workers: dict[str, Worker] = {}
    try:
        for name in contenders:
            worker = workers[name] = Worker(module, name, environment)
            results[name] = worker.ask("prepare", case=case) | {"runs": []}
            problem = next((results[name][key] for key in NO_RUNS if key in results[name]), None)
            say(f"  {name}: " + (problem or f"first call {results[name]['first_call_seconds']:.1f} s"))
            if problem:
                workers.pop(name).stop()
        for turn in range(rounds):
            names = list(workers)
            first = turn % max(len(names), 1)
            for name in names[first:] + names[:first]:
                time.sleep(PAUSE)
                answer = workers[name].ask("run")
                if "failed" in answer:
                    results[name] |= answer
                    workers.pop(name).stop()
                else:
                    results[name]["runs"].append(answer)
            last = {name: results[name]["runs"][-1] for name in workers}
            speeds = [f"{name} {run['tokens'] / run['seconds']:,.0f}" for name, run in last.items()]
            say(f"  round {turn + 1} of {rounds}, tokens/s: " + ", ".join(speeds))
        for name, worker in workers.items():
            results[name] |= worker.ask("stop")
    finally:
        for worker in workers.values():
            worker.stop()
    results = {name: _summary(result) for name, result in results.items()}
    if noisy := [name for name, result in results.items() if result.get("spread", 1.0) > 1.3]:
        say(f"  Warning: the slowest run took over 1.3 times the fastest: {', '.join(noisy)}. Was the machine quiet?")
    return results


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    runs = result.pop("runs")
    if not any(key in result for key in NO_RUNS):
        result["seconds"] = [run["seconds"] for run in runs]
        result["spread"] = max(result["seconds"]) / min(result["seconds"])
        result["median_seconds"] = statistics.median(result["seconds"])
        result["tokens_per_second"] = runs[0]["tokens"] / result["median_seconds"]
        result["memory_above_start_mb"] = result["peak_memory_mb"] - result["memory_at_start_mb"]
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}


# What comes out


def run_apart(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in a process of its own, so that its libraries' memory and threads are gone afterwards."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"`{function.__name__}` ended with status {process.exitcode}.")


def say(text: str) -> None:
    """Prints progress, to stderr: stdout is for the tables."""
    print(text, file=sys.stderr, flush=True)


def _git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


def environment() -> dict[str, Any]:
    """Versions, machine, commit and load: what the figures depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    processor, memory = platform.processor() or platform.machine(), ""
    try:
        lines = (line.partition(":") for line in CPU_INFO.read_text().splitlines())
        info = {name.strip(): value.strip() for name, _, value in lines}
        flags = info["flags"].split()
        features = [name for name, flag in FEATURES.items() if flag in flags] or ["no AVX-512"]
        processor = f"{info['model name']} ({', '.join(features)})"
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (OSError, KeyError, ValueError):
        pass
    commit = ""
    with contextlib.suppress(OSError):  # a machine without git
        commit = _git("describe", "--always").stdout.strip()
        if commit and _git("diff", "--quiet", "HEAD", "--", "*.py").returncode != 0:
            commit += "-dirty"  # in its code, not in the tables that a run before this one has written
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        say(f"Warning: the machine is not quiet (load {load:.1f}); the figures will be too.")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit or "unknown",
        "machine": {"processor": processor, "cores": CORES, "memory": memory, "system": platform.system()},
        "versions": versions,
        "load_at_start": round(load, 2),
    }


def describe(environment: dict[str, Any]) -> str:
    """One line for people: date, commit, machine, versions."""
    machine = "{processor}, {cores} cores, {memory}, {system}".format(**environment["machine"])
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return f"{environment['date']}, commit {environment['commit']}; {machine}; {versions}."


def markdown_table(headers: list[str], rows: list[list[str]]) -> str:
    """A markdown table; the first column is text, the others are figures."""
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(section: str, report: dict[str, Any], text: str, json_path: Path, update_readme: bool) -> None:
    """Prints the tables, writes the JSON, and on request puts the tables between the README's section markers."""
    text = f"{text}\n\n{describe(report['environment'])}"
    print(text)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_text(json.dumps(report, indent=2) + "\n")
    if update_readme:
        begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
        head, rest = README.read_text().split(begin)
        README.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def cell(result: dict[str, Any], key: str, digits: int = 0) -> str:
    """A result's figure for a table, or why there is none."""
    if key in result:
        return f"{result[key]:,.{digits}f}"
    return next(reason.replace("_", " ") for reason in NO_RUNS if reason in result)


def ratio(results: dict[str, dict[str, Any]], ours: str, peers: Iterable[str]) -> str:
    """Our tokens per second over those of the fastest of the peers that ran."""
    speeds = {name: result["tokens_per_second"] for name, result in results.items() if "tokens_per_second" in result}
    best = max((speeds[name] for name in peers if name in speeds), default=None)
    return f"**{speeds[ours] / best:.2f}**" if best and ours in speeds else ""


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """The arguments that every benchmark has."""
    parser.add_argument(
        "--rounds", type=int, default=5, help="timed runs of each contender, of which the median counts"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / f"{name}.json")
    parser.add_argument("--update-readme", action="store_true", help="put the tables into benchmarks/README.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)


def exit_status(report: dict[str, Any]) -> int:
    """1 if a contender failed or this library was skipped; 0 if at most a peer is not installed."""
    results = [item for case in report["cases"] for item in case["contenders"].items()]
    return int(any("failed" in result or ("skipped" in result and "keras_tfm" in name) for name, result in results))
