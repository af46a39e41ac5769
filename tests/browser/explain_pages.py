"""Reading the teaching page: its numbers, its state, moving from state to state."""

import math
import re
from urllib.parse import parse_qsl

from browser.explain_reference import link

MINUS = "\N{MINUS SIGN}"


def move(page, fragment):
    """Go to another link of the same page, as by the address bar."""
    page.evaluate(
        """fragment => location.hash === fragment || new Promise(done => {
            addEventListener("hashchange", () => setTimeout(done), { once: true });
            location.hash = fragment;
        })""",
        fragment,
    )


def numbers(page):
    """(name, exact value, text) of every number that is displayed."""
    return page.evaluate(
        """() => [...document.querySelectorAll("[data-value]")]
            .map(n => [n.dataset.key, Number(n.dataset.value), n.textContent])"""
    )


def compare(page, expected, state):
    """Check every number and flag; the names of what was shown.

    Exact values agree to 1e-9; a text is its value's rounding to the digits that it has.
    """
    shown = numbers(page)
    for key, value, text in shown:
        assert key in expected, f"{key}: no reference for a displayed number"
        wanted = float(expected[key])
        assert math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-9), (key, value, wanted, state)
        assert re.fullmatch(rf"{MINUS}?\d+(\.\d+)?", text), (key, text)
        digits = len(text.partition(".")[2])
        error = abs(float(text.replace(MINUS, "-")) - value)
        assert error <= 0.5 * 10**-digits * (1 + 1e-9), (key, text, value)
        assert not re.fullmatch(rf"{MINUS}0(\.0*)?", text), (key, text)
    flags = page.evaluate("() => ({ ...document.body.dataset })")
    for flag in ("bound", "dropped", "hidden"):
        assert flags[flag] == str(bool(expected[flag])).lower(), (flag, state)
    return {key for key, _, _ in shown}


def hidden_numbers(page):
    """Texts with digits that belong to no checked number, outside names, axes and counts."""
    return page.evaluate(
        """() => {
            const found = [];
            const roots = "#verdict, #formula, #measures, .gauge, .multiple figcaption";
            for (const root of document.querySelectorAll(roots)) {
                const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
                while (walk.nextNode()) {
                    const { data, parentElement } = walk.currentNode;
                    if (parentElement.closest("[data-value]")) continue;
                    const text = data.replace(/[Ss]tate [12]|1 [−+] |action \\d/g, "");
                    if (/\\d/.test(text)) found.push(data);
                }
            }
            return found;
        }"""
    )


def state_of(page):
    """The state in the page's address, once it has followed the last change."""
    page.wait_for_selector("body:not([data-link=behind])")
    fields = dict(parse_qsl(page.evaluate("location.hash").lstrip("#")))
    state = {}
    for key, text in fields.items():
        if key == "lesson":
            continue
        many = key in ("logits", "start", "second", "clip")
        state[key] = (
            text
            if key in ("objective", "compare")
            else [float(x) for x in text.split(",")]
            if many
            else int(text)
            if key in ("action", "updates")
            else float(text)
        )
    return state


__all__ = ["compare", "hidden_numbers", "link", "move", "numbers", "state_of"]
