"""Draws the two pictures of docs/architecture.md from the code itself, so that they stay true.

python docs/draw.py          # writes them
python docs/draw.py --check  # only says whether they are as the code is
"""

import ast
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE, PAGE = ROOT / "keras_tfm", ROOT / "docs" / "architecture.md"


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


def drawn(page: str) -> str:
    """The page with new pictures between their markers."""
    for name, picture in (("rooms", rooms), ("way of a token", way_of_a_token)):
        begin, end = f"<!-- {name}: drawn by docs/draw.py -->\n", f"\n<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = before + begin + picture() + end + rest.split(end, 1)[1]
    return page


def main(*arguments: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    new = drawn(page)
    if arguments == ("--check",):
        sys.exit(0 if new == page else f"The pictures of {PAGE} are not as the code is. Run: python docs/draw.py")
    PAGE.write_text(new, encoding="utf-8")
    print(f"Drawn into {PAGE}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
