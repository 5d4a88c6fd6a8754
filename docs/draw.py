"""Draws the two pictures of docs/architecture.md and the table of docs/models.md from the code itself.

python docs/draw.py                        # writes them
python docs/draw.py --check architecture   # only says whether those of a page are as the code is
"""

import ast
import importlib
import inspect
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE, PAGES = ROOT / "keras_tfm", ROOT / "docs"


def rooms() -> str:
    """A Mermaid graph of which package imports which; what follows from another arrow is left out."""
    arrows: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.glob("*/*.py")) + sorted(PACKAGE.glob("*/*/*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        arrows.setdefault(room, set())
        # Imports at the top only: those inside of functions are shortcuts, which tests/test_layering.py names.
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("keras_tfm."):
                other = node.module.split(".")[1]
                if (PACKAGE / other).is_dir() and other != room:
                    arrows[room].add(other)

    def reached(room: str) -> set[str]:
        return arrows[room].union(*map(reached, arrows[room]))

    lines = ["graph BT"]
    for room, others in sorted(arrows.items()):
        direct = {other for other in others if not any(other in reached(one) for one in others - {other})}
        lines += [f"  {other} --> {room}" for other in sorted(direct)] or [f"  {room}"] * (not others)
    return "\n".join(["```mermaid", *lines, "```"])


def way_of_a_token() -> str:
    """The files that one greedy step of a GPT goes through, in the order in which it first enters them."""
    import numpy as np

    import keras_tfm as ktfm
    from keras_tfm.generation import loop
    from keras_tfm.generation.compiled import pad_prompts, room_for
    from keras_tfm.generation.options import GenerationOptions
    from keras_tfm.generation.runner import prompts_of, settings_of

    model = ktfm.models.build_gpt(
        vocabulary_size=8, max_sequence_length=32, num_layers=1, num_heads=1, hidden_dim=8, position="rotary"
    )
    options = GenerationOptions(max_new_tokens=2)
    prompts = loop.Prompts(**pad_prompts(prompts_of([[1, 2]], 8), 0))
    settings, room = settings_of(options, 0), room_for(2, 16)
    state = loop.begin(model, options.sampler, prompts, room, settings, loop.Shape())
    visits: list[tuple[int, str, str]] = []  # (depth, file, function) where a file is entered for the first time
    depth = 0

    def follow(frame, event, argument):
        nonlocal depth
        path = Path(frame.f_code.co_filename)
        if PACKAGE not in path.parents:
            return
        if event == "call":
            depth += 1
            name = path.relative_to(PACKAGE).as_posix()
            if name not in {file for _, file, _ in visits}:
                visits.append((depth, name, frame.f_code.co_qualname.replace(".<locals>", "")))
        elif event == "return":
            depth -= 1

    sys.setprofile(follow)
    try:
        loop.extend(model, options.sampler, state, room, np.int32(2), settings)
    finally:
        sys.setprofile(None)
    least = min(depth for depth, _, _ in visits)
    lines = [f"{'  ' * (depth - least)}{file}: {name}" for depth, file, name in visits]
    return "\n".join(["```", *lines, "```"])


def num_weights(build, row: dict) -> int:
    """The weights of a size: those of one block of each kind, and the others' as often as there are more of them."""
    from keras_tfm.compat import variables_without_values

    def count(**depths) -> int:
        with variables_without_values():
            return build(**{**row, **depths}).count_params()

    names = [name for name in ("num_layers", "num_decoder_layers") if name in inspect.signature(build).parameters]
    shallow = dict.fromkeys(names, 1)
    least = count(**shallow)
    more = {name: (row.get(name) or row["num_layers"]) - 1 for name in names}
    return least + sum(times * (count(**{**shallow, name: 2}) - least) for name, times in more.items())


def sizes() -> str:
    """A table of all sizes that have a name: weights, and the memory that they take."""
    lines = ["| builder | size | million weights | float32, GB | bfloat16, GB |", "| - | - | -: | -: | -: |"]
    for module in ("gpt", "llama", "gemma", "gpt_neox", "bloom", "bert", "transformer", "t5", "bart", "marian"):
        found = importlib.import_module(f"keras_tfm.models.{module}")
        builder = next(name for name in vars(found) if name.startswith(f"build_{module}"))
        for size, row in found.SIZES.items():
            weights = num_weights(getattr(found, builder), row)
            memory = " | ".join(f"{weights * num_bytes / 1e9:.2f}" for num_bytes in (4, 2))
            lines.append(f"| `{builder}` | `{size}` | {weights / 1e6:,.1f} | {memory} |")
    return "\n".join(lines)


PICTURES = {
    "architecture": {"rooms": rooms, "way of a token": way_of_a_token},
    "models": {"sizes": sizes},
}


def drawn(text: str, pictures: dict) -> str:
    """The text of a page with new pictures between their markers."""
    for name, picture in pictures.items():
        begin, end = f"<!-- {name}: drawn by docs/draw.py -->\n", f"\n<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + picture() + end + rest.split(end, 1)[1]
    return text


def main(*arguments: str) -> None:
    names = [argument for argument in arguments if argument != "--check"] or list(PICTURES)
    for name in names:
        page = PAGES / f"{name}.md"
        text = page.read_text(encoding="utf-8")
        new = drawn(text, PICTURES[name])
        if "--check" not in arguments:
            page.write_text(new, encoding="utf-8")
            print(f"Drawn into {page}.")
        elif new != text:
            sys.exit(f"The pictures of {page} are not as the code is. Run: python docs/draw.py")


if __name__ == "__main__":
    main(*sys.argv[1:])
