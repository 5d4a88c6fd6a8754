"""The labels of a classifier in a config."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Labels:
    """The argument `labels`; a config has a dict from number to name, and one back."""

    keys: tuple[str, ...] = ("id2label", "label2id", "num_labels", "problem_type")

    def read(self, config):
        if config.get("problem_type") not in (None, "single_label_classification"):
            raise ValueError(
                "`problem_type` of the config must be 'single_label_classification'. "
                f"Received: {config['problem_type']!r}."
            )
        names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(_count(config.get("num_labels")))}
        numbered = {str(i): name for i, name in names.items()} if isinstance(names, dict) else {}
        labels = tuple(numbered.get(str(i)) for i in range(len(numbered)))
        if len(labels) < 2 or not all(isinstance(label, str) for label in labels):
            raise ValueError(
                f"`id2label` of the config must name the labels 0, 1, ..., at least two. Received: {str(names)[:80]}."
            )
        return {"labels": labels}

    def write(self, arguments):
        labels = arguments["labels"]
        return {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }


def _count(number) -> int:
    return number if isinstance(number, int) and 0 < number < 10_000 else 2
