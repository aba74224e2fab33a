"""All forms that are measured, in the order in which they are shown."""

from .forms import Dense, Form, Masked, Packed, Sparse
from .runtimes import OnnxRuntime, OpenVino

FORMS: dict[str, Form] = {form.name: form for form in (Dense(), Masked(), Sparse(), Packed(), OnnxRuntime(), OpenVino())}
"""By name; the first is what the others are compared with."""
