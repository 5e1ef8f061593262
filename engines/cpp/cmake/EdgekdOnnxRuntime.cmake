# ONNX Runtime: headers of its release archive or of the system (Debian's libonnxruntime-dev); the
# library is opened at run time, the system's, or that of the Python wheel found here.
include(EdgekdPython)
find_path(EDGEKD_ONNXRUNTIME_INCLUDE onnxruntime_c_api.h
  HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session
  DOC "The folder of onnxruntime_c_api.h")
find_library(EDGEKD_ONNXRUNTIME_LIBRARY NAMES onnxruntime libonnxruntime.so.1
  HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT PATH_SUFFIXES lib
  DOC "ONNX Runtime's library, opened at run time")
if(NOT EDGEKD_ONNXRUNTIME_LIBRARY)
  edgekd_from_python(wheel "import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec('onnxruntime').origin).parent.glob('capi/libonnxruntime.so*')))")
  if(wheel)
    set(EDGEKD_ONNXRUNTIME_LIBRARY "${wheel}" CACHE FILEPATH "ONNX Runtime's library, opened at run time" FORCE)
  endif()
endif()
if(EDGEKD_ONNXRUNTIME_INCLUDE)
  edgekd_plugin(onnxruntime plugins/onnxruntime.cpp)
  target_include_directories(edgekd_plugin_onnxruntime SYSTEM PRIVATE ${EDGEKD_ONNXRUNTIME_INCLUDE})
  if(EDGEKD_ONNXRUNTIME_LIBRARY)
    target_compile_definitions(edgekd_plugin_onnxruntime PRIVATE
      EDGEKD_ONNXRUNTIME_LIBRARY="${EDGEKD_ONNXRUNTIME_LIBRARY}")
  endif()
  message(STATUS "Plugin onnxruntime: ${EDGEKD_ONNXRUNTIME_INCLUDE}, ${EDGEKD_ONNXRUNTIME_LIBRARY}")
else()
  message(STATUS "Plugin onnxruntime: left out, onnxruntime_c_api.h was not found (set ONNXRUNTIME_ROOT)")
endif()
