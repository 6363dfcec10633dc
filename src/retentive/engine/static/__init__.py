"""Steps as functions of tensors of fixed shapes, which can be compiled and exported."""
