# TensorRT and TensorRT for RTX, each where its headers (TENSORRT_ROOT, TENSORRT_RTX_ROOT) and
# CUDA's runtime are found. Their libraries are opened at run time.
find_package(CUDAToolkit QUIET)
find_path(EDGEKD_CUDA_INCLUDE cuda_runtime_api.h
  HINTS ${CUDAToolkit_INCLUDE_DIRS} PATHS /usr/local/cuda/include
  DOC "The folder of cuda_runtime_api.h")
# The static one: there is no library to be found then, and none of another version is.
if(TARGET CUDA::cudart_static)
  set(EDGEKD_CUDART CUDA::cudart_static)
else()
  find_library(EDGEKD_CUDART_STATIC cudart_static PATHS /usr/local/cuda/lib64
    DOC "CUDA's runtime, linked statically")
  find_library(EDGEKD_CULIBOS culibos PATHS /usr/local/cuda/lib64) # a part of it, from CUDA 13 on
  set(EDGEKD_CUDART ${EDGEKD_CUDART_STATIC})
  if(EDGEKD_CULIBOS)
    list(APPEND EDGEKD_CUDART ${EDGEKD_CULIBOS})
  endif()
  list(APPEND EDGEKD_CUDART rt)
endif()

foreach(root TENSORRT_ROOT TENSORRT_RTX_ROOT)
  string(TOLOWER ${root} name)
  string(REPLACE "_root" "" name ${name})
  string(REPLACE "_" "-" name ${name}) # tensorrt, tensorrt-rtx
  set(include EDGEKD_${root}_INCLUDE)
  set(only "")
  if(name STREQUAL "tensorrt-rtx") # what lies in the system's folders is TensorRT's
    set(only NO_DEFAULT_PATH)
  endif()
  find_path(${include} NvInferRuntime.h HINTS ${${root}} ENV ${root}
    PATH_SUFFIXES include include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu ${only}
    DOC "The folder of ${name}'s NvInferRuntime.h")
  if(NOT ${include})
    message(STATUS "Plugin ${name}: left out, NvInferRuntime.h was not found (set ${root})")
  elseif(NOT EDGEKD_CUDA_INCLUDE OR NOT (TARGET CUDA::cudart_static OR EDGEKD_CUDART_STATIC))
    message(STATUS "Plugin ${name}: left out, CUDA's runtime was not found (set CUDAToolkit_ROOT)")
  else()
    edgekd_plugin(${name} plugins/tensorrt.cpp plugins/tensorrt_cuda.cpp
      plugins/tensorrt_library.cpp plugins/tensorrt_session.cpp plugins/tensorrt_sidecar.cpp
      src/files.cpp)
    string(REPLACE "-" "_" target edgekd_plugin_${name})
    target_include_directories(${target} SYSTEM PRIVATE ${${include}} ${EDGEKD_CUDA_INCLUDE})
    target_link_libraries(${target} PRIVATE
      ${EDGEKD_CUDART} nlohmann_json::nlohmann_json OpenSSL::Crypto Threads::Threads)
    if(name STREQUAL "tensorrt-rtx")
      target_compile_definitions(${target} PRIVATE EDGEKD_TENSORRT_RTX)
    endif()
    message(STATUS "Plugin ${name}: ${${include}}, ${EDGEKD_CUDA_INCLUDE}")
  endif()
endforeach()
