"""How long a reader waits: one seed of the story's arm from nothing, and the whole five-seed demo.

    python benchmarks/first_case.py             one seed: fine-tuning, reward model, PPO, measures
    python benchmarks/first_case.py --demo      and the whole case on five seeds
    ... --device auto|cpu|cuda                  auto takes a GPU where there is one

Nothing cached is used. Results, with machine, versions and date, go to
benchmarks/results/first_case.json; a number that was not measured in a call keeps its last value,
if that was of this machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "first_case.json"


def one_seed(seed: int, device: str) -> dict[str, float]:
    """Seconds of each stage of the story's arm, in this process, and its memory."""
    from rlhf_edu.cases.conflicting_signals import RECIPE, STORY
    from rlhf_edu.cases.stages import Place, prepare, run_arm
    from rlhf_edu.lab.machine import settle

    settle()
    recipe = replace(RECIPE, raters={"biased": RECIPE.raters["biased"]},
                     arms={STORY: RECIPE.arms[STORY]})
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), seed, device, fresh=True, resume=False)
        began = time.perf_counter()
        prepare(recipe, place, lambda seconds: None)
        prepared = time.perf_counter()
        run_arm(recipe, STORY, place, lambda seconds: None)
        done = time.perf_counter()
    return {"reference_and_reward_model_s": prepared - began, "ppo_and_measures_s": done - prepared,
            "total_s": done - began, "peak_memory_gb": peak_memory_gb(device)}


def peak_memory_gb(device: str) -> float:
    """Largest memory of this process so far: on the GPU, or resident."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def in_child(arguments: list[str]) -> tuple[float, str]:
    """Wall seconds and output of a fresh process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        output = subprocess.run([sys.executable, *arguments], check=True, text=True,
                                stdout=subprocess.PIPE, cwd=cache,
                                env=os.environ | {"RLHF_EDU_CACHE": cache}).stdout
        return time.perf_counter() - began, output


def chosen_device(parser: argparse.ArgumentParser, device: str) -> str:
    """The device that --device means here; a word and exit code 2 if it, or a compiler, is not."""
    from rlhf_edu import InputError
    from rlhf_edu.cases.experiment import pick_device
    from rlhf_edu.lab.machine import check_compiler

    try:
        device = pick_device(device)
        check_compiler(device)
    except InputError as error:
        parser.error(str(error))
    return device


def known_of(file: Path, device: str) -> dict[str, Any]:
    """What a file of results holds of this machine, and its environment as it is now.

    What another machine needed is left out: it is not to be read as this one's.
    """
    import torch

    from rlhf_edu.lab.machine import available_cores, compiling
    from rlhf_edu.lab.record import environment

    known = json.loads(file.read_text()) if file.exists() else {}
    here = environment(torch.device(device)) | {
        "cores": available_cores(), "compiled": compiling()}
    there = {"compiled": False} | known.get("environment", {})
    if any(there.get(k) != here[k] for k in ("device_name", "cores", "compiled")):
        known = {}
    return known | {"environment": here}


def write(found: dict[str, Any]) -> None:
    """Keep what has been measured so far."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    """Measure in fresh processes, print, and write the results down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="also time the case on five seeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.in_this_process:
        print(json.dumps(one_seed(options.seed, options.device)))
        return
    device = chosen_device(parser, options.device)
    found = known_of(RESULTS, device)
    wall, output = in_child([__file__, "--in-this-process", "--seed", str(options.seed),
                             "--device", device])
    found["one_seed"] = json.loads(output) | {"wall_with_imports_s": wall, "seed": options.seed}
    write(found)
    if options.demo:
        wall, _ = in_child(["-m", "rlhf_edu", "run", "conflicting-signals", "--device", device])
        found["demo"] = {"wall_s": wall, "seeds": [0, 1, 2, 3, 4]}
    write(found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
