"""The data stages under kills, failing calls, flipped bytes and rivals; see ``__main__`` for the long form."""
