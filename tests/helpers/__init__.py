"""What several test files share: tiny models, clocks and fakes."""
