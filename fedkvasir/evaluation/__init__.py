"""Tables in, tables out: what the records say."""
