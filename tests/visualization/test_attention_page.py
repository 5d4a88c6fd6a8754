"""The page shows every head to who clicks through it in a browser, and asks nothing of a network."""

import importlib.util
import re
import shutil

import numpy as np
import pytest

from keras_tfm.visualization import write_attention_page

WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 3, 3)).astype("float32")  # (L, N, T, T)
TOKENS = ["<b>", "</script>", "tree"]
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def page(tmp_path):
    """The page in a headless browser, as a person has it; what went wrong in it fails the test."""
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("there is no Chromium, or no playwright to click with")
    from playwright.sync_api import sync_playwright

    write_attention_page(list(WEIGHTS), TOKENS, tmp_path / "attention.html", title="Who looks at whom")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, wrong, asked = browser.new_page(), [], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "attention.html").as_uri())
        yield page
        assert not wrong
        assert asked == [(tmp_path / "attention.html").as_uri()]
        browser.close()


def shown(page):
    """The percents beside the tokens that are looked at."""
    return [int(text.split()[0]) for text in page.locator("#keys small").all_text_contents()]


@pytest.mark.slow
def test_a_person_finds_the_weights_of_every_head_and_token(page):
    assert page.title() == page.locator("h1").text_content() == "Who looks at whom"
    assert page.locator("#queries button").all_text_contents() == TOKENS  # as text, not as elements
    for block, heads in enumerate(WEIGHTS):
        for head, rows in enumerate(heads):
            page.get_by_label(f"Block {block}, head {head}").click()
            assert page.locator("#chosen").text_content() == f"Block {block}, head {head}"
            assert page.locator("#overview [aria-pressed=true]").count() == 1
            for query, weights in enumerate(rows):
                page.locator("#queries button").nth(query).click()
                np.testing.assert_allclose(shown(page), 100 * weights, atol=0.8)
    box = page.locator("#matrix").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.1)  # the first row, the last column
    assert re.fullmatch(r'"<b>" looks at "tree": \d+ %', page.locator("#cell").text_content())
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#queries [aria-pressed=true]").text_content() == "<b>"
    page.keyboard.press("ArrowRight")
    assert page.locator("#chosen").text_content() == "Block 1, head 0"  # after the last comes the first
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_is_one_file_without_links_and_tokens_cannot_leave_their_place(tmp_path):
    write_attention_page(list(WEIGHTS), TOKENS, tmp_path / "attention.html")
    text = (tmp_path / "attention.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|@import", text)
    assert text.count("</script>") == 2  # of the page itself
    assert "ATTENTION_AS_JSON" not in text


def test_pages_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"must have weights over the same tokens\. Received: shapes="):
        write_attention_page([WEIGHTS[0], WEIGHTS[1, :, :2, :2]], TOKENS, tmp_path / "x.html")
    with pytest.raises(ValueError, match=r"`key_tokens` must hold a str for each of the 3 places"):
        write_attention_page(list(WEIGHTS), TOKENS, tmp_path / "x.html", key_tokens=["a"])
    assert not list(tmp_path.iterdir())
