"""`fineprune sweep`: many runs, as a table."""

from ...errors import require

require("hub", "yaml", "pyarrow")
require("sweep", "fcntl")
