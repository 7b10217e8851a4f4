"""The snippets of clients are found, and changed for where they run."""

from __future__ import annotations

import ast

from helpers.project import TOP, documents, fenced

from judge.clients.__main__ import WRITTEN, snippets
from judge.clients.snippets import localized, snippets_of

PAGE = """# Clients

## One

<!-- judged with: a-package b[c] -->
```python
print("http://127.0.0.1:8080/v1")
```

```python
other()
```
"""


def test_snippets_have_a_heading_and_packages() -> None:
    """Those that say so alone."""
    (found,) = snippets_of(PAGE)
    assert found == ("One", "a-package b[c]", 'print("http://127.0.0.1:8080/v1")\n')
    assert localized(found.text, {WRITTEN: "http://127.0.0.1:1"}) == 'print("http://127.0.0.1:1/v1")\n'


def test_every_judged_block_of_the_documents_is_found() -> None:
    """And is Python; all of them ask the server at the address that is put in place."""
    found = snippets()
    marked = [text for page in documents() for above, text, _ in fenced(page, "python") if "judged with:" in above]
    assert sorted(one.text for one in found) == sorted(marked)
    for one in found:
        ast.parse(one.text)
        assert WRITTEN in one.text, one.client
    assert (TOP / "docs" / "guides" / "clients.md").exists()
