"""Structures that froze a model, took gigabytes or ended the process where nothing held them."""

from __future__ import annotations

import erllama_py as erllama

HOSTILE: dict[str, erllama.RequestOptionsDict] = {
    "8 rules that double": {"grammar": "root ::= a\na ::= b b\nb ::= c c\nc ::= d d\nd ::= e e\ne ::= f f\nf ::= g g\n"
                            'g ::= h h\nh ::= "a"?'},
    "40 rules that double": {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(40))
                             + 'r40 ::= "a"?'},
    "40 recursive ones": {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(40))
                          + 'r40 ::= "a"? | "(" r0 ")"'},
    "300 that may be there": {"grammar": "root ::= " + '"a"? ' * 300},
    "300 recursive ones": {"grammar": "root ::= " + "a? " * 300 + '\na ::= "a" | "b" a'},
    "powers": {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}{{0,9}}\n" for i in range(40))
               + 'r40 ::= "a" | "(" r0 ")"'},
    "Lark powers": {"grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1}{{0,9}}\n" for i in range(40))
                    + 'r40: "a" | "b"'},
    "a long chain": {"grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(900)) + 'r900: "a"'},
    "chain in brackets": {"grammar": "start: " + "(" * 50_000 + '"a"' + ")" * 50_000},
    "left recursion": {"grammar": 'root ::= root root | root | ""'},
    "ambiguous": {"grammar": 'root ::= root root root | root root | "a" | "b" | ""'},
    "20,000 ways": {"grammar": "start: " + " | ".join(f'"w{i}"' for i in range(6000))},
    "repetitions": {"regex": "((a{1,10000}){1,10000}){1,10000}"},
    "many states": {"regex": "(.*[a-m].{15}){3}"},
    "a large class": {"regex": "[" + "".join(chr(0x4E00 + 2 * i) for i in range(2700)) + "]{1,50}"},
    "long": {"regex": "a" * 8_000},
    "34 long strings": {"json_schema": {"properties": {f"p{i}": {"type": "string", "maxLength": 65536} for i in
                                                       range(34)}, "required": [f"p{i}" for i in range(34)]}},
    "many may be there": {"json_schema": {"properties": {f"p{i}": {"type": "integer"} for i in range(450)}}},
    "records to choose": {"json_schema": {"enum": [{"a": i, "b": [i, i]} for i in range(590)]}},
    "crossed patterns": {"json_schema": {"type": "string", "allOf": [{"pattern": f".*{a}.{{12}}"} for a in "abc"]}},
    "large numbers": {"json_schema": {"type": "integer", "multipleOf": 10**9 + 7}},
    "remainders": {"json_schema": {"type": "integer", "multipleOf": 99_999_999}},
    "remainders in Lark": {"grammar": 'start: %json {"type": "integer", "multipleOf": 99999999}'},
    "remainders together": {"json_schema": {"anyOf": [{"type": "integer", "multipleOf": n} for n in range(941, 998)]}},
    "refers to itself": {"json_schema": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                                         "$ref": "#/$defs/a"}},
}  # fmt: skip
