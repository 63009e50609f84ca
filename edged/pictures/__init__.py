"""Picture files: what their headers say, and the pixels in them. Knows no models and no requests.

`header` reads a file's header in pure Python, so that the cost of a picture is known before a
library sees it; `decoding` decodes it; `resizing` makes it larger or smaller.
"""
