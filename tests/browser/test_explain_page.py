"""The teaching page as a page: names, contrast, widths, motion; what it looks like is kept as pictures."""

import pytest
from browser.conftest import PHONE
from browser.explain_pages import move
from browser.explain_reference import link

EIGHT = link(
    {
        "objective": "erc-directional-dapo",
        "logits": [0.5, -1.25, 2.0, -4.75, 1.0, -2.5, 0.0, 3.3],
        "start": [0.5, -1.25, 2.0, -4.75, 1.0, -2.5, 0.0, 4.3],
        "action": 4,
        "advantage": -2.5,
        "updates": 16,
        "second": [-1.0, 2.0, -3.0, 4.0, -5.0, 1.0, 0.25, 0.5],
        "cosine": -0.9,
    }
)
PLACES = ("#preset=hidden", "#preset=shared", "#preset=swap", EIGHT, "#logits=broken")

#: Contrast of every text that can be seen, against the nearest background behind it (WCAG 2, SC 1.4.3).
CONTRAST = """() => {
    const channels = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const luminance = ([r, g, b]) => [r, g, b]
        .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => {
        for (let at = node; at; at = at.parentElement) {
            const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
            if (a === 1) return [r, g, b];
            if (a !== 0) throw new Error("a translucent background under text");
        }
        throw new Error("no background");
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const node = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest("script")) continue;
        const style = getComputedStyle(node);
        const color = node.closest("svg") ? style.fill : style.color;
        const [text, ground] = [channels(color), behind(node)].map(luminance);
        const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
        found.push([Math.round(ratio * 100) / 100, walk.currentNode.data.trim()]);
    }
    return found;
}"""

#: Pairs of numbers or labels in one row of the bars, the gauges or a chart that touch each other.
TOUCHING = """() => [...document.querySelectorAll(".values, .marks, .plot, .multiple svg")]
    .flatMap(row => {
        const boxes = [...row.querySelectorAll("span, text")].filter(n => !n.querySelector("span"))
            .map(n => [n.textContent, n.getBoundingClientRect()]);
        return boxes.flatMap(([a, x], i) => boxes.slice(i + 1)
            .filter(([, y]) => x.left < y.right && y.left < x.right)
            .filter(([, y]) => x.top < y.bottom - 1 && y.top < x.bottom - 1)
            .map(([b]) => [row.className.baseVal ?? row.className, a, b]));
    })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened, explain_page, scheme):
    """At least 4.5 to 1, in both schemes, whatever is shown."""
    page = opened(explain_page, color_scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
    for place in PLACES:
        move(page, place)
        measured = page.evaluate(CONTRAST)
        assert len(measured) > 100
        assert [(ratio, text) for ratio, text in measured if ratio < 4.5] == []


@pytest.mark.parametrize("width", [320, 390, 760, 1024, 1280, 1900])
def test_nothing_is_wider_than_the_screen_or_overlaps(opened, explain_page, width):
    """No horizontal scrolling, no label on another, at every width and with eight actions."""
    page = opened(explain_page, viewport={"width": width, "height": 800})
    for place in PLACES:
        move(page, place)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place
        assert page.evaluate(TOUCHING) == [], place
    past = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter(n => n.checkVisibility() && !n.closest(".scroll"))
            .map(n => [n.tagName + "." + n.className, n.getBoundingClientRect()])
            .filter(([, b]) => b.width && (b.left < 0 || b.right > innerWidth + 1)).map(([name]) => name)"""
    )
    assert past == []


def test_the_charts_follow_a_turned_phone(opened, explain_page):
    """Their text keeps its size when the window changes."""
    page = opened(explain_page, viewport=PHONE)
    for width in (390, 844, 1280):
        page.set_viewport_size({"width": width, "height": 700})
        page.wait_for_function(
            """() => [...document.querySelectorAll(".multiple svg")].every(svg =>
                Math.abs(svg.viewBox.baseVal.width - svg.getBoundingClientRect().width) < 2)"""
        )


@pytest.mark.parametrize("place", ["#preset=tour", EIGHT], ids=["one state", "two states"])
def test_everything_that_acts_has_a_name(opened, explain_page, place):
    """As Chromium's accessibility tree has it: no nameless control, and no two sliders of one name."""
    page = opened(explain_page, place)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    acting = {
        "slider",
        "radio",
        "checkbox",
        "combobox",
        "button",
        "link",
        "textbox",
        "DisclosureTriangle",
    }
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in tree
        if not node["ignored"] and node["role"]["value"] in acting
    ]
    assert all(name for _, name in named), named
    sliders = [name for role, name in named if role == "slider"]
    assert len(sliders) == len(set(sliders)) == (24 + 8 if place == EIGHT else 5 + 7)
    assert {role for role, _ in named} >= {"slider", "radio", "checkbox", "button", "link"}
    buttons = [name for role, name in named if role == "button"]
    assert len(buttons) == len(set(buttons)) == 9
    images = [n for n in tree if n.get("role", {}).get("value") in ("image", "img")]
    assert len([n for n in images if not n["ignored"]]) == 4  # the charts; swatches are decoration
    slider = page.locator('[data-slider="logits.0"]')
    for name in ("aria-valuemin", "aria-valuemax", "aria-valuenow", "aria-orientation"):
        assert slider.get_attribute(name), name
    assert "probability" in slider.get_attribute("aria-valuetext")


def test_the_focus_shows_on_everything(opened, explain_page):
    """Through the whole page by Tab: a ring on each stop, and every control is one."""
    page = opened(explain_page, "#preset=stuck")
    seen = []
    for _ in range(80):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
                const at = document.activeElement;
                if (at === document.body) return null;
                const ringed = at.matches(".actions input") ? at.nextElementSibling : at;
                const style = getComputedStyle(ringed);
                return [at.id || at.dataset.slider || at.name || at.textContent.trim(),
                    style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1];
            }"""
        )
        if stop is None:
            break
        seen.append(stop)
    assert all(ring for _, ring in seen), seen
    names = {name for name, _ in seen}
    assert names >= {
        "copy",
        "next",
        "logits.0",
        "start.3",
        "action",
        "objective",
        "in-advantage",
        "in-step",
        "in-updates",
        "in-clip.low",
        "in-clip.high",
        "in-band",
        "in-compare",
        "in-actions",
        "in-away",
        "in-shared",
    }


def test_touch_targets_are_large_enough(opened, explain_page):
    """At least 24 by 24 pixels on a phone (WCAG 2.2, SC 2.5.8), with eight actions too."""
    page = opened(explain_page, EIGHT, viewport=PHONE, has_touch=True, is_mobile=True)
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, summary, label, .logit, input[type=range]")]
            .filter(n => n.checkVisibility())
            .map(n => [n.outerHTML.slice(0, 60), n.getBoundingClientRect()])
            .filter(([, b]) => b.width < 24 || b.height < 24).map(([name]) => name)"""
    )
    assert small == []


def test_motion_can_be_reduced(opened, explain_page):
    """Needles glide only where motion is welcome."""
    for wish, glides in (("reduce", False), ("no-preference", True)):
        page = opened(explain_page, reduced_motion=wish)
        duration = page.locator(".needle").first.evaluate(
            "n => getComputedStyle(n).transitionDuration"
        )
        assert (duration != "0s") == glides


def test_it_paints_before_its_script_runs(opened, explain_page):
    """Title and lesson are in the file itself; the numbers come with the module, without a request."""
    page = opened(explain_page, java_script_enabled=False)
    assert page.locator("h1").is_visible()
    assert page.locator(".lesson-step").first.is_visible()
    assert page.locator("noscript").count() == 1
    page = opened(explain_page)
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    painted = page.evaluate(
        """() => new Promise(done => new PerformanceObserver(list =>
            list.getEntriesByName("first-contentful-paint").forEach(entry => done(entry.startTime))
        ).observe({ type: "paint", buffered: true }))"""
    )
    assert painted > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["hidden", "shared", "stuck", "swap"])
def test_pictures(opened, explain_page, screenshot, name, scheme):
    """Of a desktop and of a phone, to be looked at; each shows more than one colour."""
    for size, options in {
        "desktop": {},
        "phone": {"viewport": PHONE, "device_scale_factor": 2},
    }.items():
        page = opened(explain_page, f"#preset={name}", color_scheme=scheme, **options)
        assert screenshot(page, f"explain-{name}-{size}-{scheme}").stat().st_size > 20_000
