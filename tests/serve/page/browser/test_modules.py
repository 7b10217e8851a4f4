"""Parts of the page's code that decide, as tables and properties: they run in the browser, without a server's state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from helpers.paged import paged
from playwright.async_api import Browser, Page

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# Every split of a stream in three, with each kind of line break, has the events of the whole.
SPLITS = """async () => {
  const {Parser} = await import('/page/sse.js');
  const wanted = JSON.stringify([
    {event: 'snapshot', data: 'one\\ntwo'}, {event: 'message', data: 'x: y'}, {event: 'message', data: ''}]);
  const wrong = [];
  for (const end of ['\\n', '\\r\\n', '\\r']) {
    const text = [': hello', 'event: snapshot', 'data: one', 'data:two', 'id: 3', '', 'data: x: y', '',
      'event: none', '', 'data', '', 'data: cut'].join(end);
    for (let one = 0; one <= text.length; one += 1) {
      for (let two = one; two <= text.length; two += 1) {
        const parser = new Parser();
        const found = [text.slice(0, one), text.slice(one, two), text.slice(two)].flatMap((part) => parser.push(part));
        if (JSON.stringify(found) !== wanted) wrong.push([end, one, two, found]);
      }
    }
  }
  return wrong.slice(0, 3);
}"""

# Lists that follow each other at random: each has its items in order, each by the node that it had before.
KEYED = """async () => {
  const {keyed} = await import('/page/dom.js');
  const parent = document.createElement('ul');
  let made = 0;
  const make = (item) => ({node: Object.assign(document.createElement('li'), {id: `n${made++} ${item}`}), update() {}});
  let seed = 7;
  const pick = (most) => (seed = (seed * 48271) % 2147483647) % most;
  let nodes = new Map();
  for (let round = 0; round < 500; round += 1) {
    const items = [];
    while (pick(8)) items.splice(pick(items.length + 1), 0, pick(12));
    const unique = [...new Set(items)];
    keyed(parent, items, (item) => item, make);
    const shown = [...parent.children];
    if (shown.map((node) => node.id.split(' ')[1]).join() !== unique.join()) return [round, items];
    for (const [at, item] of unique.entries()) {
      if (nodes.has(item) && nodes.get(item) !== shown[at]) return ['another node', round, item];
    }
    nodes = new Map(unique.map((item, at) => [item, shown[at]]));
  }
  return made;
}"""


@pytest.fixture(scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """One for all tests: what they call changes nothing of it."""
    async with paged(browser) as (page, _, _):
        yield page


async def test_events_are_the_same_however_they_are_cut(page: Page) -> None:
    """Also between the two characters of a line break; a last event that is not ended is none."""
    assert await page.evaluate(SPLITS) == []


async def test_lists_keep_their_elements(page: Page) -> None:
    """What stays is not made again."""
    assert await page.evaluate(KEYED) > 12


async def test_texts_are_blocks_of_words_and_code(page: Page) -> None:
    """A fence closes with one as long of its kind; one that is open reaches to the end."""
    cases: list[tuple[str, list[list[str]]]] = [
        ("", []),
        ("a\n\nb", [["text", "a\n\nb"]]),
        ("a\n```js\nx\n```\nb", [["text", "a"], ["code", "x"], ["text", "b"]]),
        ("```\nx", [["code", "x"]]),
        ("````\n```\n````", [["code", "```"]]),
        ("~~~\n```\n~~~", [["code", "```"]]),
        ("say ``` here", [["text", "say ``` here"]]),
        ("```\n```", [["code", ""]]),
    ]
    code = """async (texts) => {
      const {blocks} = await import('/page/text.js');
      return texts.map((text) => blocks(text).map((block) => [block.kind, block.text]));
    }"""
    assert await page.evaluate(code, [text for text, _ in cases]) == [wanted for _, wanted in cases]


# A reply that grows by 1,000 characters at a time: how many elements a step changes, beside its whole text at the end.
GROWING = """async ([kind, line]) => {
  const {showText} = await import('/page/text.js');
  const parent = document.createElement('div');
  let text = kind === 'code' ? '```\\n' : '';
  const steps = [];
  const watch = new MutationObserver(() => {});
  watch.observe(parent, {subtree: true, childList: true, characterData: true});
  while (text.length < 200000) {
    text += line.repeat(Math.ceil(1000 / line.length));
    showText(parent, text);
    steps.push(watch.takeRecords().length);
  }
  const pieces = [...parent.querySelectorAll('.piece')].map((piece) => piece.textContent);
  return {most: Math.max(...steps), whole: text.trimEnd().endsWith(pieces.join('\\n').trimEnd())};
}"""


@pytest.mark.parametrize("kind", ["text", "code"])
@pytest.mark.parametrize("line", ["x = 1\n", "many words of a line that is long " * 20 + "\n", "\n", "a\n\n"])
async def test_a_long_reply_changes_at_its_end_alone(page: Page, kind: str, line: str) -> None:
    """Else a browser would lay out a megabyte anew for each token."""
    found = await page.evaluate(GROWING, [kind, line])
    assert found["most"] <= 6
    assert found["whole"]


async def test_pieces_are_the_text(page: Page) -> None:
    """With line ends between them, wherever those are; a piece is no smaller than it has to be."""
    texts = ["", "\n", "a", "a\n", "\n\n\n\n", "ab\ncd\n\nef", "abcdefgh", "abcdef\n", "\nabcdef\ng", "a\nb\nc\nd\ne\n"]
    code = """async (texts) => {
      const {pieces} = await import('/page/text.js');
      return texts.map((text) => pieces(text, 3));
    }"""
    for text, found in zip(texts, await page.evaluate(code, texts), strict=True):
        assert "\n".join(found) == text
        assert all(len(piece) >= 3 for piece in found[:-1])


async def test_waits_grow_to_a_bound_and_are_spread(page: Page) -> None:
    """From half a second to fifteen; never longer, and never nothing."""
    code = """async () => {
      const {backoff} = await import('/page/live.js');
      return [0, 1, 2, 9, 5000].map((failed) => [backoff(failed, 0), backoff(failed, 0.999)]);
    }"""
    waits = await page.evaluate(code)
    assert [most for _, most in waits] == pytest.approx([0.5, 1, 2, 15, 15], rel=0.01)
    assert all(0.3 < least < most for least, most in waits)


async def test_numbers_are_written_for_people(page: Page) -> None:
    """Sizes, times and rates."""
    code = """async () => {
      const f = await import('/page/format.js');
      return [f.bytes(0), f.bytes(1536), f.bytes(20 * 2 ** 30), f.duration(59.9), f.duration(3725), f.duration(90000),
        f.rate(null), f.rate(0.04), f.rate(9.96), f.rate(1234.4), f.counted(1, 'row'), f.counted(0, 'row'),
        f.share(1, 0), f.share(3, 2), f.measured(0.2134), f.measured(12.34)];
    }"""
    wanted = ["0 B", "1.50 KiB", "20.0 GiB", "59 s", "1 h 2 min", "1 d 1 h", "–", "0", "10", "1,234", "1 row", "0 rows",
              0, 1, "0.21 s", "12.3 s"]  # fmt: skip
    assert await page.evaluate(code) == wanted


async def test_calls_of_tools_are_answered_or_told_what_is_wrong(page: Page) -> None:
    """Whatever a model writes as a name or as arguments."""
    code = """async (calls) => {
      const {answer} = await import('/page/tools.js');
      return calls.map((call) => answer(call));
    }"""
    calls = [
        {"name": "roll_dice", "arguments": '{"count": 3, "sides": 6}'}, {"name": "roll_dice", "arguments": "{"},
        {"name": "roll_dice", "arguments": '{"count": 10000000}'}, {"name": "constructor", "arguments": "{}"},
        {"name": "current_time", "arguments": '{"time_zone": "Nowhere/Land"}'},
        {"name": "current_time", "arguments": ""}, {"name": "current_time", "arguments": "null"},
    ]  # fmt: skip
    told = [json.loads(one) for one in await page.evaluate(code, calls)]
    assert len(told[0]["rolled"]) == 3
    assert all(1 <= number <= 6 for number in told[0]["rolled"])
    assert [("error" in one) for one in told] == [False, True, True, True, True, False, True]
    assert told[5]["time_zone"] == "UTC"


# Models that are not loaded, as `ModelState` has them.
STANDINGS = """async (states) => {
  const {showModels} = await import('/page/models.js');
  const parent = document.createElement('div');
  const usual = {load: 'demand', waiting: 0, loads: 0, pinned: false, expires_at: null, problem: null,
    memory_bytes: 0};
  const models = states.map((state, at) => (
    {id: `m${at}`, aliases: [], work: null, standing: {...usual, ...state}}));
  showModels(parent, {at: 100, server: {drills: true}, models}, () => {});
  return [...parent.children].map((card) => ({
    pill: card.querySelector('.pill').textContent,
    tone: card.querySelector('.pill').dataset.tone,
    said: [...card.querySelectorAll('p')].filter((p) => !p.closest('[hidden]')).map((p) => p.textContent).join('|'),
    crash: !card.querySelector('footer button').hidden,
  }));
}"""


async def test_models_that_are_not_loaded_say_where_they_stand(page: Page) -> None:
    """What they would take, who waits for them, why they failed; there is nothing to crash."""
    shown = await page.evaluate(STANDINGS, [
        {"state": "unloaded", "memory_bytes": 1 << 30}, {"state": "waiting", "waiting": 2},
        {"state": "failed", "problem": "m.gguf is torn"}, {"state": "loading", "pinned": True},
    ])  # fmt: skip
    assert [(one["pill"], one["tone"], one["crash"]) for one in shown] == [
        ("unloaded", "rest", False), ("waiting", "warn", False), ("failed", "bad", False), ("loading", "warn", False),
    ]  # fmt: skip
    assert "1.00 GiB once loaded" in shown[0]["said"]
    assert "loaded when it is asked for" in shown[0]["said"]
    assert "2 requests wait for it" in shown[1]["said"]
    assert "m.gguf is torn" in shown[2]["said"]
    assert "pinned" in shown[3]["said"]
