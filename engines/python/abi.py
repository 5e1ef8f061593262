"""The C interface by ctypes alone, as any language may have it: python abi.py LIBRARY BUNDLE"""

import sys
from ctypes import CDLL, POINTER, Structure, byref, c_char_p, c_float, c_void_p, sizeof
from ctypes import c_int32, c_int64, c_size_t, c_uint32  # fmt: skip


class Image(Structure):  # edgekd_image
    _fields_ = [("size", c_size_t), ("data", c_char_p), ("width", c_uint32), ("height", c_uint32),
                ("channels", c_uint32), ("order", c_int32), ("stride", c_size_t)]  # fmt: skip


class Tensor(Structure):  # edgekd_tensor
    _fields_ = [("size", c_size_t), ("name", c_char_p), ("data", POINTER(c_float)),
                ("bytes", c_size_t), ("dtype", c_int32), ("rank", c_uint32),
                ("shape", c_int64 * 8)]  # fmt: skip


def check(status: int) -> None:
    if status:
        sys.exit(library.edgekd_last_error().decode())


library = CDLL(sys.argv[1])
library.edgekd_last_error.restype = c_char_p
engine, context, label = c_void_p(), c_void_p(), c_char_p()
check(library.edgekd_open(sys.argv[2].encode(), None, byref(engine)))
check(library.edgekd_context_create(engine, byref(context)))
image = Image(sizeof(Image), bytes(range(192)), 8, 8, 3)  # 8 by 8 pixels of RGB
check(library.edgekd_context_run_images(context, byref(image), c_size_t(1)))
output = Tensor(sizeof(Tensor))
check(library.edgekd_context_output(context, c_size_t(0), byref(output)))
logits = output.data[: output.bytes // 4]
check(library.edgekd_engine_label(engine, c_size_t(logits.index(max(logits))), byref(label)))
print(label.value.decode(), *(f"{each:.4f}" for each in logits))
check(library.edgekd_context_destroy(context))
check(library.edgekd_close(engine))
