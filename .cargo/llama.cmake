# Included by CMake into the build of llama.cpp (CMAKE_PROJECT_INCLUDE).
#
# llama.cpp's `common` library and its HTTP client cannot be left out: the crate
# llama-cpp-2 always asks for them. Nothing of them is called, so they are compiled
# without optimisation, and `common` in a few large units that read its headers once.
# That takes minutes off a first build.
function(llamero_spare_the_unused)
  foreach(target llama-common cpp-httplib)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE -O0)
    endif()
  endforeach()
  if(TARGET llama-common)
    set_target_properties(llama-common PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 13)
    # It specialises templates that the files before it have used.
    set_source_files_properties("${CMAKE_SOURCE_DIR}/common/json.cpp"
      TARGET_DIRECTORY llama-common PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
  # An architecture is a small file of its own, and there are some 150 of them.
  if(TARGET llama)
    get_target_property(sources llama SOURCES)
    list(FILTER sources EXCLUDE REGEX "models/")
    set_target_properties(llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 20)
    set_source_files_properties(${sources}
      TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
endfunction()

if(PROJECT_NAME STREQUAL "llama.cpp" AND BUILD_SHARED_LIBS)
  # A portable build. Its libraries find each other in whichever folder they are.
  set(CMAKE_INSTALL_RPATH "$ORIGIN")
  # No links from `libllama.so` to names with versions: the crate puts the links beside
  # the binary without what they point to, and fails on them when it is built again.
  set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)
  # It would need the OpenSSL of the building machine wherever it goes.
  set(LLAMA_OPENSSL OFF)
endif()

if(PROJECT_NAME STREQUAL "llama.cpp" AND NOT MSVC AND NOT CMAKE_VERSION VERSION_LESS 3.19)
  # Once all targets are there.
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL llamero_spare_the_unused)
endif()
