"""The page in a real browser: every button, a reload mid-stream, two tabs, a server that starts again."""

import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from retentive.serving.config import Limits, ServeConfig
from serving.http import call
from serving.serving import Running, running

SCREENSHOTS = os.environ.get("RETENTIVE_SCREENSHOTS")
"""A folder: where it is given, each test leaves pictures there to look at."""


@pytest.fixture(scope="module")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """A server that writes answers which outlast any browser, however busy the machine is."""
    sessions, limits = str(tmp_path_factory.mktemp("sessions")), Limits(max_new_tokens=10**7)
    with running(ServeConfig(checkpoint=model_folder, port=0, sessions=sessions, limits=limits)) as one:
        yield one


@pytest.fixture
def page(browser, served: Running) -> Generator:
    """A page of an owner without states; what the console says is a failure."""
    for state in call(served, "GET", "/v1/states?limit=1000").json["data"]:
        call(served, "DELETE", f"/v1/states/{state['id']}")
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    made = context.new_page()
    said = []
    # Chromium notes every status above 399; what is refused on purpose is no fault of the page.
    made.on(
        "console", lambda one: said.append(one.text) if one.type == "error" and "status of" not in one.text else None
    )
    made.on("pageerror", lambda error: said.append(str(error)))
    made.set_default_timeout(20000)
    made.goto(served.url)
    made.get_by_text("No stored state yet.").wait_for()
    yield made
    assert said == []
    context.close()


def picture(page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"))


def write(page, text: str, most: int = 6) -> None:
    """Send a message and wait for the whole answer."""
    if not page.locator("#most").is_visible():
        page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Most new tokens").fill(str(most))
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()
    finished(page)


def finished(page) -> None:
    page.locator("#send:enabled").wait_for()


def tree(page) -> list[str]:
    return page.locator("#tree button").all_inner_texts()


def test_turns_stream_and_nothing_is_read_again(page, served: Running) -> None:
    write(page, "Hello")
    write(page, "And then?")
    assert tree(page) == ["Hello", "And then?"]
    assert page.locator("#again").inner_text() == "0"
    assert float(page.locator("#speed").inner_text()) > 0
    listed = call(served, "GET", "/v1/states").json["data"]
    records = [call(served, "GET", f"/v1/states/{state['id']}/record").json for state in listed]
    assert page.locator("#tokens").inner_text() == str(records[0]["tokens"])
    assert re.fullmatch(r"[\d.,]+ (B|kB|MB)", page.locator("#size").inner_text())
    shown = page.locator(".said").all_text_contents()
    assert shown == ["Hello", records[1]["turn"]["output"], "And then?", records[0]["turn"]["output"]]
    picture(page, "light")
    page.emulate_media(color_scheme="dark")
    picture(page, "dark")
    page.set_viewport_size({"width": 360, "height": 720})
    picture(page, "narrow")
    page.evaluate("document.querySelector('.said').textContent = 'line\\n'.repeat(300) + 'word'.repeat(900)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.get_by_role("button", name="Send").bounding_box()
    assert box["y"] + box["height"] <= 720  # a long conversation leaves room for the next message
    page.get_by_role("button", name="Sessions").click()
    assert page.get_by_role("button", name="New session").is_visible()
    picture(page, "narrow-sessions")


def test_what_is_written_is_text_whatever_it_says(page, served: Running) -> None:
    said = "<img src=x onerror='document.title=1'><b>bold</b> **stars** 👩‍👩‍👧 مرحبا\n  two lines"
    write(page, said)
    assert page.locator(".said.user").all_text_contents() == [said]
    assert tree(page) == [" ".join(said.split())[:80]]
    assert page.locator("main img, main b, nav img").count() == 0
    assert page.title() == "retentive"


def test_editing_an_earlier_turn_forks(page) -> None:
    write(page, "Hello")
    write(page, "One way")
    page.get_by_role("button", name="Edit the turn: One way").click()
    assert page.get_by_label("Message").input_value() == "One way"
    page.get_by_role("button", name="Leave it as it was").click()
    assert page.locator(".said.user").all_text_contents() == ["Hello", "One way"]
    page.get_by_role("button", name="Edit the turn: One way").click()
    write(page, "Another way")
    assert page.locator(".said.user").all_text_contents() == ["Hello", "Another way"]
    assert sorted(tree(page)) == ["Another way", "Hello", "One way"]
    page.locator("#tree").get_by_role("button", name="One way").click()
    assert page.locator(".said.user").all_text_contents() == ["Hello", "One way"]
    picture(page, "forks")
    page.get_by_role("button", name="New session").click()
    assert page.locator(".said").count() == 0


def test_a_long_conversation_opens_at_its_end(page, served: Running) -> None:
    last = None
    for number in range(40):
        asked = {"model": "small", "input": f"turn {number}", "max_output_tokens": 1, "previous_response_id": last}
        last = call(served, "POST", "/v1/responses", asked).json["id"]
    page.goto(f"{served.url}#{last}")
    page.reload()
    page.locator(".said.user").nth(39).wait_for()
    assert (
        page.evaluate("(log => log.scrollHeight - log.scrollTop - log.clientHeight)(document.querySelector('#log'))")
        < 2
    )
    current = page.locator("#tree [aria-current]").bounding_box()
    assert current["y"] + current["height"] <= 800
    assert page.evaluate("scrollY") == 0


def test_stop_keeps_what_was_written(page) -> None:
    long(page)
    page.get_by_role("button", name="Stop").click()
    finished(page)
    assert page.get_by_text("Model (stopped)").is_visible()
    assert tree(page) == ["Tell me"]
    long(page)
    page.keyboard.press("Escape")
    finished(page)
    assert page.get_by_text("Model (stopped)").count() == 2


def long(page) -> None:
    """Begin an answer that does not end soon."""
    if not page.locator("#most").is_visible():
        page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Most new tokens").fill("10000000")
    page.get_by_label("Message").fill("Tell me")
    page.keyboard.press("Control+Enter")
    page.locator("#stop:enabled").wait_for()
    page.locator(".turn:last-child .said:last-child", has_text=re.compile("....", re.DOTALL)).wait_for()


def test_a_state_is_saved_loaded_and_deleted(page, tmp_path: Path) -> None:
    write(page, "Hello")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save state file").click()
    file = tmp_path / "state.safetensors"
    download.value.save_as(file)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load state file").click()
    chooser.value.set_files(file)
    page.locator("#tree button").nth(1).wait_for()
    write(page, "And then?")
    assert page.locator(".said.user").all_text_contents() == ["Hello", "And then?"]
    page.get_by_role("button", name="Delete this state").click()
    page.locator("#tree button").nth(2).wait_for(state="detached")
    assert len(tree(page)) == 2
    (tmp_path / "bad").write_bytes(b"no state")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load state file").click()
    chooser.value.set_files(tmp_path / "bad")
    page.get_by_text("the state is refused").wait_for()


def test_a_reload_mid_stream_and_two_tabs_lose_nothing(page, served: Running) -> None:
    write(page, "Hello")
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_text("Hello").first.wait_for()
    long(page)
    page.reload()
    page.get_by_text("Your message is below").wait_for()
    assert page.get_by_label("Message").input_value() == "Tell me"
    page.locator(".said.user").wait_for()  # the conversation is drawn after the message
    assert page.locator(".said.user").all_text_contents() == ["Hello"]
    write(page, "Tell me")
    # The other tab hears of it, and stays where it was.
    other.locator("#tree button").nth(1).wait_for()
    assert other.locator(".said.user").all_text_contents() == ["Hello"]
    other.close()


def test_keyboard_alone_reaches_everything_by_name(page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the message"
    page.keyboard.press("Enter")
    assert page.evaluate("[document.activeElement.id, location.hash]") == ["input", ""]
    page.keyboard.type("Hello")
    page.get_by_text("Sampling", exact=True).press("Enter")
    page.get_by_label("Most new tokens").fill("4")
    page.get_by_label("Message").press("Control+Enter")
    page.get_by_role("button", name="Edit the turn: Hello").wait_for()
    finished(page)
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input:not([hidden]), textarea')].filter(
            (one) => !(one.textContent.trim() || one.labels?.length || one.getAttribute('aria-label'))).length"""
    )
    assert unnamed == 0
    assert page.get_by_role("log", name="Conversation").is_visible()


def test_nothing_foreign_is_allowed(page, served: Running) -> None:
    policy = call(served, "GET", "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for name in ("/", "/page.js", "/page.css"):
        assert not re.search(rb"(https?:)?//[a-z]", call(served, "GET", name).content)


def test_a_server_that_starts_again_goes_on(browser, model_folder: Path, tmp_path: Path) -> None:
    config = ServeConfig(checkpoint=model_folder, port=0, sessions=str(tmp_path))
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20000)
    with running(config) as first:
        page.goto(first.url)
        write(page, "Hello")
        port = int(first.url.rsplit(":", 1)[1])
    page.get_by_label("Message").fill("And then?")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("The server does not answer").wait_for()
    assert page.get_by_label("Message").input_value() == "And then?"
    again = ServeConfig(checkpoint=model_folder, port=port, sessions=str(tmp_path), limits=Limits(max_new_tokens=10**7))
    with running(again) as second:
        long(page)
        second.server.force_exit = second.server.should_exit = True  # in the midst of the answer
        page.get_by_text("The answer broke off: the server has ended.").wait_for()
        assert page.get_by_label("Message").input_value() == "Tell me"
    with running(again):
        assert page.locator(".said.user").all_text_contents() == ["Hello"]
        write(page, "And then?")
        page.get_by_role("button", name="Edit the turn: And then?").wait_for()
        assert page.locator(".said.user").all_text_contents() == ["Hello", "And then?"]
    context.close()


def test_a_key_is_asked_for_and_kept_in_the_tab(browser, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-a-person\n")
    config = ServeConfig(checkpoint=model_folder, port=0, sessions=str(tmp_path / "s"), api_key_file=tmp_path / "keys")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20000)
    with running(config) as served:
        page.goto(served.url)
        page.get_by_role("textbox", name="Key").fill("a-key-of-nobody")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("dialog").get_by_text("is none that this server knows").wait_for()
        page.keyboard.press("Escape")  # which leaves a way back
        page.get_by_label("Message").fill("Hello")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("textbox", name="Key").fill("a-key-of-a-person")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("No stored state yet.").wait_for()
        write(page, "Hello")
        page.reload()
        page.get_by_role("button", name="Hello", exact=True).wait_for()
    context.close()
