"""Every memory trick of the library, behind one question: `plain.is_plain`, and `plain.may_write_over` made of it."""
