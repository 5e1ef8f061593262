# Asks the Python of the PATH, where a runtime's wheel may be installed, for a folder of it.
# edgekd_from_python(VARIABLE "import x; print(...)"): empty where it cannot say.
find_program(EDGEKD_PYTHON NAMES python3 python DOC "The Python whose wheels may be used")
function(edgekd_from_python variable program)
  set(found "")
  if(EDGEKD_PYTHON AND NOT CMAKE_CROSSCOMPILING)  # its wheels are for this processor
    execute_process(COMMAND ${EDGEKD_PYTHON} -c "${program}"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(${variable} "${found}" PARENT_SCOPE)
endfunction()
