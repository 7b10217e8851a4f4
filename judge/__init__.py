"""The judge: how well models do with what this library offers them. Not part of the tests."""
