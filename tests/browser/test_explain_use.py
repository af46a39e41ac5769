"""The teaching page in use: mouse, touch, keyboard, links, lesson."""

import pytest
from browser.explain_pages import compare, move, state_of
from browser.explain_reference import OBJECTIVES, PRESETS, filled, link, reference

#: Sampled action in the middle, logits that no gesture leaves alone.
FOUR = {"logits": [1.5, 0.7, 0.0, -0.4], "action": 2, "updates": 3}
HOSTILE = [
    "#objective=<img src=x onerror=alert(1)>",
    "#logits=1,2,<script>alert(1)</script>",
    "#%3Cscript%3E=1",
    "#__proto__=1",
    "#constructor=1",
    "#preset=__proto__",
    "#preset=constructor",
    "#objective=toString",
    "#logits=1,NaN",
    "#logits=1,Infinity",
    "#logits=1,1e400",
    "#logits=1,0x10",
    "#logits=1,,2",
    "#logits=",
    "#logits=1",
    "#logits=" + ",".join("1" * 9),
    "#logits=1,6",
    "#logits=" + "1," * 3000,
    "#logits=1,2&action=3",
    "#action=5",
    "#action=0",
    "#action=1.5",
    "#action=-1",
    "#updates=1000000",
    "#updates=-1",
    "#updates=1e1e1",
    "#step=0",
    "#step=9",
    "#advantage=99",
    "#clip=0.2",
    "#clip=0,0.2",
    "#clip=0.2,0.2,0.2",
    "#band=0",
    "#band=",
    "#cosine=1",
    "#second=1,2",
    "#start=1",
    "#compare=x",
    "#unknown=1",
    "#step=1&step=2",
    "#preset=nope",
    "#preset=swap&step=1",
    "#lesson=0",
    "#lesson=99",
    "#lesson=x",
    "#%",
    "#%E0%A4%A",
    "#&&&==",
    "#=",
    "#objective",
]


def slider(page, name):
    return page.locator(f'[data-slider="{name}"]')


def point(page, name, value):
    """Where on the screen a slider has a value, 5 at its top and -5 at its bottom."""
    slider(page, name).scroll_into_view_if_needed()
    box = slider(page, name).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + (5 - value) / 10 * box["height"]


def drag(page, name, start, *values):
    page.mouse.move(*point(page, name, start))
    page.mouse.down()
    for value in values:
        page.mouse.move(*point(page, name, value), steps=4)
    page.mouse.up()


def consistent(page):
    """What is shown is the library's for the state in the address; that state."""
    state = state_of(page)
    compare(page, reference(state), state)
    return filled(state)


def test_dragging_with_the_mouse(opened, explain_page):
    """A logit follows the pointer, past its end too, and everything else follows the logit."""
    page = opened(explain_page, link(FOUR))
    drag(page, "logits.0", 1.5, -2.0)
    state = consistent(page)
    assert state["logits"][0] == pytest.approx(-2.0, abs=0.06)
    assert state["logits"][1:] == FOUR["logits"][1:]
    drag(page, "logits.2", 0.0, 2.0, 9.0)
    assert consistent(page)["logits"][2] == 5
    page.mouse.move(*point(page, "logits.2", -3))  # the button is up
    assert consistent(page)["logits"][2] == 5
    page.mouse.click(*point(page, "logits.3", 1.0))
    assert consistent(page)["logits"][3] == pytest.approx(1.0, abs=0.06)


def test_dragging_with_a_finger(opened, explain_page):
    """Touch moves a logit and does not scroll the page meanwhile."""
    page = opened(
        explain_page,
        link(FOUR),
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
    )
    x, y = point(page, "logits.1", 0.7)
    scrolled = page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)

    def send(kind, *where):
        points = [{"x": x, "y": v} for v in where]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.evaluate(
            "() => new Promise(requestAnimationFrame)"
        )  # moves are handed out once a frame

    target = point(page, "logits.1", 3.0)[1]
    send("touchStart", y)
    for share in (0.3, 0.6, 1.0):
        send("touchMove", y + share * (target - y))
    send("touchEnd")
    assert consistent(page)["logits"][1] == pytest.approx(3.0, abs=0.08)
    assert page.evaluate("scrollY") == scrolled
    page.locator(".actions label").nth(3).tap()
    assert consistent(page)["action"] == 4


def test_logits_by_keyboard(opened, explain_page):
    """Arrows move by a tenth, page keys by one, Home and End to the ends; the focus stays."""
    page = opened(explain_page, link(FOUR))
    slider(page, "logits.1").focus()
    for keys, value in (
        (["ArrowUp"], 0.8),
        (["ArrowRight", "ArrowRight"], 1.0),
        (["ArrowDown"], 0.9),
        (["ArrowLeft"], 0.8),
        (["PageUp"], 1.8),
        (["PageDown", "PageDown"], -0.2),
        (["End"], 5.0),
        (["ArrowUp"], 5.0),
        (["Home"], -5.0),
        (["ArrowDown"], -5.0),
    ):
        for key in keys:
            page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.slider") == "logits.1"
        assert float(slider(page, "logits.1").get_attribute("aria-valuenow")) == value
    assert consistent(page)["logits"] == [1.5, -5.0, 0.0, -0.4]


def test_every_control_by_keyboard(opened, explain_page):
    """Each range, choice and box answers to keys, and the numbers stay the library's."""
    page = opened(explain_page, link(FOUR))
    steps = {
        "advantage": (1.0, 0.1),
        "step": (0.2, 0.01),
        "updates": (3, 1),
        "clip.low": (0.2, 0.01),
        "clip.high": (0.28, 0.01),
        "band": (0.05, 0.01),
        "actions": (4, 1),
    }
    for name, (before, step) in steps.items():
        page.locator(f"[id='in-{name}']").focus()
        page.keyboard.press("ArrowRight")
        shown = page.locator(f"[id='out-{name}']").get_attribute("data-value")
        assert float(shown) == pytest.approx(before + step), name
        consistent(page)
    assert state_of(page)["logits"] == [*FOUR["logits"], 0.0]
    for box, field in (("in-shared", "second"), ("in-away", "start")):
        page.locator(f"#{box}").focus()
        page.keyboard.press("Space")
        assert len(consistent(page)[field]) == 5
    page.locator("#in-cosine").focus()
    page.keyboard.press("ArrowLeft")
    assert consistent(page)["cosine"] == pytest.approx(0.75)
    slider(page, "start.2").focus()
    page.keyboard.press("PageUp")
    slider(page, "second.0").focus()
    page.keyboard.press("PageDown")
    state = consistent(page)
    assert state["start"][2] == pytest.approx(1.0)
    page.get_by_label("Sampled action 2").focus()
    page.keyboard.press("ArrowRight")
    assert consistent(page)["action"] == 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_choosing_an_objective(opened, explain_page, objective):
    """It takes its recipe's clip, its name stands over the formula, its colour is the figures'."""
    from erc_bench.presentation.plots.style import arm_style  # noqa: PLC0415  # it loads matplotlib
    from erc_bench.studies.arms import stored_arm  # noqa: PLC0415

    other = "gppo" if objective != "gppo" else "dapo"
    page = opened(explain_page, link({"objective": other, **FOUR}))
    page.locator(f"input[name=objective][value={objective}]").check()
    assert consistent(page) == filled({"objective": objective, **FOUR})
    style = arm_style(stored_arm(objective))
    color = style.color
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--arm')") == color
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    bar = page.locator(".bar.new").first
    assert (
        bar.evaluate("e => getComputedStyle(e).backgroundColor") == f"rgb({red}, {green}, {blue})"
    )
    swatch = page.locator(f"label:has(input[value={objective}]) .arm")
    assert swatch.get_attribute("stroke") == color
    dash = style.dash
    given = [float(x) / 1.8 for x in (swatch.get_attribute("stroke-dasharray") or "").split()]
    assert given == pytest.approx([] if dash == "-" else list(dash[1]))


def test_fewer_and_more_actions(opened, explain_page):
    """A vocabulary keeps the logits it has, new ones are 0; a sampled action that goes is replaced."""
    page = opened(explain_page, link({"logits": [1.0, 2.0, 3.0], "action": 3}))
    for key, count in (("Home", 2), ("End", 8)):
        page.locator("#in-actions").focus()
        page.keyboard.press(key)
        state = consistent(page)
        assert len(state["logits"]) == count == page.locator(".logit").count()
        assert state["action"] == 2
    assert state["logits"] == [1.0, 2.0] + [0.0] * 6


@pytest.mark.parametrize(
    "state",
    [
        {
            "objective": "erc-directional-dapo",
            "logits": [0.1, -2.345678901234567, 5.0],
            "action": 3,
        },
        {
            "objective": "gppo",
            **FOUR,
            "clip": [0.37, 1.5],
            "advantage": -2.3,
            "step": 1.23,
            "band": 0.11,
        },
        {
            "objective": "dapo",
            **FOUR,
            "start": [0.0, 1.0, 2.0, -3.0],
            "second": [4.0, 3.0, 2.0, 1.0],
            "cosine": -0.35,
            "compare": "erc-dapo",
        },
    ],
)
def test_a_link_survives_the_round_trip(opened, explain_page, state):
    """The copied link, opened anew, shows the same state to the last digit."""
    page = opened(explain_page, link(state))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    page.locator("#copied:not(:empty)").wait_for()
    assert page.locator("#copied").inner_text().startswith("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    again = opened(explain_page, copied[copied.index("#") :])
    assert filled(state_of(again)) == filled(state)
    compare(again, reference(state), state)
    assert not again.locator("#note").is_visible()


def test_a_link_where_nothing_can_be_copied(opened, explain_page):
    """Without a clipboard the link stands there, selected."""
    page = opened(explain_page)
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
        "document.execCommand = () => false"
    )
    page.locator("#copy").click()
    assert page.locator("#link").input_value() == page.url
    assert page.evaluate("getSelection().toString() || document.activeElement.id")
    assert "Copy it from here" in page.locator("#copied").inner_text()


@pytest.mark.parametrize("fragment", HOSTILE, ids=lambda f: f[:30])
def test_a_bad_link_shows_the_default_and_says_so(opened, explain_page, fragment):
    """One plain line, the first preset's numbers, no exception, and no element from the link."""
    page = opened(explain_page, fragment)
    note = page.locator("#note").inner_text()
    assert note.startswith("This link cannot be read (")
    assert "<" not in note
    assert "alert" not in note
    compare(page, reference(PRESETS["tour"]), "tour")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    move(page, "#preset=swap")
    assert not page.locator("#note").is_visible()
    compare(page, reference(PRESETS["swap"]), "swap")


@pytest.mark.parametrize(
    "fragment", ["", "#", "#lesson=1", "#preset=tour", "#preset=tour&lesson=1"]
)
def test_a_link_without_a_state_shows_the_default(opened, explain_page, fragment):
    """No fragment is no fault."""
    page = opened(explain_page, fragment)
    assert not page.locator("#note").is_visible()
    compare(page, reference(PRESETS["tour"]), "tour")
    assert page.locator("#lesson-at").inner_text() == "1 of 9"


def test_the_lesson_goes_forth_and_back(opened, explain_page):
    """Each step sets its preset; its place is in the link; the ends are ends."""
    page = opened(explain_page)
    steps = page.evaluate(
        "[...document.querySelectorAll('.lesson-step')].map(s => s.dataset.preset)"
    )
    assert page.locator("#back").is_disabled()
    for at, name in enumerate(steps):
        assert page.locator("#lesson-at").inner_text() == f"{at + 1} of {len(steps)}"
        assert page.locator(".lesson-step:visible").count() == 1
        compare(page, reference(PRESETS[name]), name)
        page.locator("#in-updates").press("ArrowRight")
        assert consistent(page)["updates"] == filled(PRESETS[name])["updates"] + 1
        page.locator("#again").click()
        compare(page, reference(PRESETS[name]), name)
        if at + 1 < len(steps):
            page.locator("#next").click()
    assert page.locator("#next").is_disabled()
    page.locator("#back").click()
    compare(page, reference(PRESETS[steps[-2]]), steps[-2])
    state_of(page)
    again = opened(explain_page, page.evaluate("location.hash"))
    assert again.locator("#lesson-at").inner_text() == f"{len(steps) - 1} of {len(steps)}"


@pytest.mark.parametrize(
    ("name", "step"), [("tour", 1), ("stuck", 8), ("restored", 8), ("swap", 9)]
)
def test_a_preset_brings_its_step(opened, explain_page, name, step):
    """The lesson opens where it speaks of the preset."""
    page = opened(explain_page, f"#preset={name}")
    assert page.locator("#lesson-at").inner_text() == f"{step} of 9"


def test_questions_set_up_what_they_ask(opened, explain_page):
    """Each has a preset, and an answer that is hidden until it is asked for."""
    page = opened(explain_page)
    questions = page.locator("#questions li")
    assert questions.count() == 5
    for i in range(5):
        question = questions.nth(i)
        assert not question.locator("details p").is_visible()
        button = question.locator("button")
        button.click()
        name = button.get_attribute("data-preset")
        compare(page, reference(PRESETS[name]), name)
        question.locator("summary").click()
        assert question.locator("details p").is_visible()


@pytest.mark.parametrize("rival", OBJECTIVES)
def test_comparing_objectives(opened, explain_page, rival):
    """A second line: the rival's updates at the same settings; none beside itself."""
    state = {"objective": "erc-dapo", **FOUR, "step": 0.8, "updates": 9, "clip": [0.1, 0.3]}
    page = opened(explain_page, link(state))
    assert page.locator("[data-rival]").count() == 0
    page.get_by_label("Compare with").select_option(rival)
    assert consistent(page) == filled({**state, "compare": rival})
    ends = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-rival]')]"
        ".map(n => [n.dataset.rival, Number(n.dataset.end)]))"
    )
    expected = reference({**state, "objective": rival})
    same = rival == state["objective"]
    assert ends == (
        {} if same else {k: pytest.approx(expected[k]) for k in ("r", "rho", "kl", "tv")}
    )
    assert page.locator("#rival-legend").is_visible() != same
    page.get_by_label("Compare with").select_option("")
    assert page.locator("[data-rival]").count() == 0
