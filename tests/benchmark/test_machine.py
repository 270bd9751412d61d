"""A result describes what determines its speed, but nothing private about the machine's user."""

from levit_np.benchmark.machine import describe


def test_variables_that_determine_the_speed_are_recorded(monkeypatch):
    monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", "avx2")
    monkeypatch.setenv("LEVIT_NP_CACHE", "/home/somebody")
    monkeypatch.setenv("HOME", "/home/somebody")
    found = describe(packages=("numpy", "no-such-package"))
    assert found["variables"]["LEVIT_NP_INSTRUCTIONS"] == "avx2" and "somebody" not in str(found["variables"])
    assert found["versions"]["numpy"] and found["versions"]["no-such-package"] is None
