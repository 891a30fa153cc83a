"""Small grammars that methods begin with, so that Run shows something at once. More are in `assets/grammars.json`."""

from __future__ import annotations

PERSON = """\
{
  "type": "object",
  "properties": {
    "name": {"type": "string", "maxLength": 30},
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "languages": {"type": "array", "items": {"enum": ["English", "French", "Hindi", "Spanish"]}, "maxItems": 3}
  },
  "required": ["name", "age", "languages"],
  "additionalProperties": false
}
"""

ARITHMETIC = """\
start: sum
sum: product ((" + " | " - ") product)*
product: value ((" * " | " / ") value)*
value: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,4}/
"""
