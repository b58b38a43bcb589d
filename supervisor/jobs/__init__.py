"""Jobs: what they are, where they are kept, how they are started, watched and judged."""
