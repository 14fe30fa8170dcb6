"""Label Studio's brush code under the module name that scripts outside of this repository use; see `formats.rle`."""

from fewmask.formats.rle import decode_brush as decode_brush
from fewmask.formats.rle import encode_brush as encode_brush
