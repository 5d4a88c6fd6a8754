"""The scaling laws are found again in losses that follow them."""

import importlib
import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def laws():
    return importlib.import_module("scaling_laws")  # `examples` is on pytest's path


def runs_of(laws, law, numbers):
    return [
        laws.Run("", parameters, tokens, float(law.loss(numbers, float(parameters), float(tokens))))
        for parameters in (10**4, 3 * 10**4, 10**5, 3 * 10**5)
        for tokens in (10**5, 3 * 10**5, 10**6)
    ]


@pytest.mark.parametrize(
    ("name", "numbers"), [("CHINCHILLA", (0.5, 4.0, 5.0, 0.34, 0.37)), ("KAPLAN", (18.0, 20.0, 0.08, 0.1))]
)
def test_the_law_behind_losses_is_found(name, numbers, laws):
    law = getattr(laws, name)
    found = laws.fitted(law, runs_of(laws, law, np.array(numbers)), num_bootstraps=2)
    held_out = np.array([1e6]), np.array([3e6])
    np.testing.assert_allclose(law.loss(found.numbers, *held_out), law.loss(numbers, *held_out), rtol=2e-3)


def test_the_best_size_is_the_one_of_the_formula(laws):
    _, a, b, alpha, beta = numbers = np.array([0.5, 6.0, 7.0, 0.4, 0.3])
    law = laws.CHINCHILLA._replace(numbers=numbers, bootstrapped=numbers[None])
    compute = 1e15
    expected = (alpha * np.exp(a) / (beta * np.exp(b))) ** (1 / (alpha + beta)) * (compute / 6) ** (
        beta / (alpha + beta)
    )
    np.testing.assert_allclose(laws.optimal_parameters(law, compute), expected, rtol=0.01)  # of a grid


@pytest.mark.slow
def test_scaling_laws_trains_fits_draws_and_goes_on(laws, tmp_path, capsys):
    options = {"sizes": ["8x1", "16x1", "24x1"], "tokens": [2048, 4096], "held_out": "32x1", "num_bootstraps": 3}
    report = laws.main(**options, output=tmp_path)
    assert len(json.loads((tmp_path / "losses.json").read_text())) == 7
    assert (tmp_path / "scaling_laws.png").read_bytes().startswith(b"\x89PNG")
    assert set(report) == {"held_out", "Chinchilla", "Kaplan", "compute"}
    assert abs(report["Chinchilla"]["error"]) < 0.5
    capsys.readouterr()
    assert laws.main(**options, output=tmp_path) == report
    assert " s\n" not in capsys.readouterr().out  # nothing was trained again
