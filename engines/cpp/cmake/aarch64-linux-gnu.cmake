# Builds for 64-bit Arm with Debian's cross compiler; see docs/embedding.md.
#   -DEDGEKD_SYSROOT=FOLDER: where tools/aarch64-sysroot has put OpenSSL
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGEKD_SYSROOT)
set(CMAKE_FIND_ROOT_PATH "${EDGEKD_SYSROOT}")
# Programs of this machine and headers that know no processor; libraries of the other alone.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
