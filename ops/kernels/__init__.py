"""Triton kernels, and nothing but kernels and the table of their configurations.

Imported lazily, by `ops.cuda` alone: importing Triton costs half a second and a machine without a GPU does not
need it. Wrappers (`ops.cuda`) check shapes and choose configurations; `ops.reference` is what each kernel
means. Invariants: addresses are int64 wherever a product with a stride is taken; no kernel reads what it masks;
no result of a row depends on the rows beside it, given one configuration.
"""
