# The pure core and the simulator's hot path as C extensions, translated from the same Python by mypyc.
#
#   DIPTYCH_COMPILED_CORE  AUTO: where mypyc and a C compiler are there, else interpreted, with a warning
#                          ON: or fail      OFF: interpreted
#
# An editable install stays interpreted: a compiled module hides the .py beside it.

if(SKBUILD_STATE STREQUAL "editable")
  set(DIPTYCH_COMPILED_CORE_DEFAULT OFF)
else()
  set(DIPTYCH_COMPILED_CORE_DEFAULT AUTO)
endif()
set(DIPTYCH_COMPILED_CORE ${DIPTYCH_COMPILED_CORE_DEFAULT} CACHE STRING "AUTO, ON or OFF")

function(diptych_stay_interpreted why)
  if(DIPTYCH_COMPILED_CORE STREQUAL "AUTO")
    message(WARNING "The core stays interpreted: ${why}")
  else()
    message(FATAL_ERROR "DIPTYCH_COMPILED_CORE=${DIPTYCH_COMPILED_CORE}: ${why}")
  endif()
endfunction()

# -fwrapv as CPython itself is built: the runtime relies on it. -O1: as fast as -O2 here, in half the time.
set(COMPILED_FLAGS -O1 -g0 -fwrapv -w)

# The code of all modules of one library; imported by them, never by anybody else.
function(diptych_compiled_library name include)
  string(REPLACE "." "/" path ${name})
  cmake_path(GET path PARENT_PATH folder)
  cmake_path(GET path FILENAME file)
  python_add_library(${name} MODULE WITH_SOABI ${ARGN})
  target_include_directories(${name} PRIVATE ${include} ${COMPILED_RUNTIME})
  target_compile_options(${name} PRIVATE ${COMPILED_FLAGS})
  set_target_properties(${name} PROPERTIES
    OUTPUT_NAME ${file} LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/compiled/${folder})
  install(TARGETS ${name} LIBRARY DESTINATION ${folder})
endfunction()

# A module that Python can import: a few lines that ask its library.
function(diptych_compiled_module name source)
  diptych_compiled_library(${name} ${COMPILED_RUNTIME} ${source})
endfunction()

if(NOT DIPTYCH_COMPILED_CORE)
  return()
endif()

include(CheckLanguage)
check_language(C)
if(NOT CMAKE_C_COMPILER)
  diptych_stay_interpreted("there is no C compiler")
  return()
endif()
enable_language(C)

set(COMPILED_CORE ${CMAKE_CURRENT_BINARY_DIR}/compiled_core)
execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/compiled_core.py
    ${CMAKE_CURRENT_SOURCE_DIR}/src ${COMPILED_CORE}
  RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(failed)
  diptych_stay_interpreted("${said}")
  return()
endif()

# mypyc's runtime knows CPython's insides: a Python newer than both must not fail the whole build.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
try_compile(RUNTIME_COMPILES ${CMAKE_CURRENT_BINARY_DIR}/probe
  SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/cmake/runtime_probe.c
  CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${COMPILED_CORE}/runtime\;${Python_INCLUDE_DIRS}"
  COMPILE_DEFINITIONS -w
  OUTPUT_VARIABLE said)
if(NOT RUNTIME_COMPILES)
  diptych_stay_interpreted("mypyc's runtime does not compile for this Python:\n${said}")
  return()
endif()
include(${COMPILED_CORE}/targets.cmake)
