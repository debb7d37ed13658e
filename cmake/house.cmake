# The house: which folder may depend on which. A folder may use any folder named before it in its
# own side's list, and any folder of common/. Wrong edges stop the configuration.
set(SOUNDER_HOUSE_common base memory tensor_file attention lsh kernels policy metrics config http
    transport wire cluster)
set(SOUNDER_HOUSE_kv_node kernels segment sampler tuning store session server main)
set(SOUNDER_HOUSE_gpu_worker ops model kv client engine serve main)
set(SOUNDER_HOUSE_cli table plot baselines eval session status tune main)
# cli/ sees common/ and kv_node/ up to here.
set(SOUNDER_CLI_LAST_KV_NODE_FOLDER tuning)
# What kernels need, built where SOUNDER_KERNELS_ONLY.
set(SOUNDER_KERNEL_FOLDERS common/base common/memory common/attention common/lsh common/kernels
    kv_node/kernels)

# The side ("kv_node") and the rank inside it of a library named <side>_<folder>.
function(sounder_place name side_out rank_out)
  foreach(side common kv_node gpu_worker cli)
    if(name MATCHES "^${side}_(.+)$")
      list(FIND SOUNDER_HOUSE_${side} "${CMAKE_MATCH_1}" rank)
      if(rank GREATER_EQUAL 0)
        set(${side_out} ${side} PARENT_SCOPE)
        set(${rank_out} ${rank} PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
  message(FATAL_ERROR "${name} is not a folder of the house (cmake/house.cmake lists them)")
endfunction()

# Fails unless `name` may depend on `dep`.
function(sounder_check_edge name dep)
  sounder_place(${name} side rank)
  sounder_place(${dep} dep_side dep_rank)
  set(allowed FALSE)
  if(dep_side STREQUAL side)
    if(dep_rank LESS rank)
      set(allowed TRUE)
    endif()
  elseif(dep_side STREQUAL common)
    set(allowed TRUE)
  elseif(side STREQUAL cli AND dep_side STREQUAL kv_node)
    list(FIND SOUNDER_HOUSE_kv_node ${SOUNDER_CLI_LAST_KV_NODE_FOLDER} last)
    if(dep_rank LESS_EQUAL last)
      set(allowed TRUE)
    endif()
  endif()
  if(NOT allowed)
    message(FATAL_ERROR "${name} may not depend on ${dep}: a folder uses only folders before it "
                        "on its own side, and common/ (cmake/house.cmake)")
  endif()
endfunction()

# Fails if one of the outside libraries named after `name` is our own: its edge would go unchecked.
function(sounder_check_libs name)
  foreach(lib IN LISTS ARGN)
    if(lib MATCHES "^(common|kv_node|gpu_worker|cli|bench|tests)_")
      message(FATAL_ERROR "${name}: ${lib} is no outside library: name it in DEPS, not in LIBS")
    endif()
  endforeach()
endfunction()

# sounder_library(NAME common_base SRCS a.cc ... DEPS common_memory ... LIBS absl::status ...)
# DEPS are folders of the house, checked; LIBS are outside libraries.
function(sounder_library)
  cmake_parse_arguments(A "" "NAME" "SRCS;DEPS;LIBS" ${ARGN})
  sounder_place(${A_NAME} side rank)
  foreach(dep IN LISTS A_DEPS)
    sounder_check_edge(${A_NAME} ${dep})
  endforeach()
  sounder_check_libs(${A_NAME} ${A_LIBS})
  if(A_SRCS)
    add_library(${A_NAME} STATIC ${A_SRCS})
    target_include_directories(${A_NAME} PUBLIC ${PROJECT_SOURCE_DIR})
    target_link_libraries(${A_NAME} PUBLIC ${A_DEPS} ${A_LIBS})
  else()
    add_library(${A_NAME} INTERFACE)
    target_include_directories(${A_NAME} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${A_NAME} INTERFACE ${A_DEPS} ${A_LIBS})
  endif()
endfunction()

# sounder_binary(NAME sounder_node PLACE kv_node_main SRCS main.cc DEPS ... LIBS ...)
function(sounder_binary)
  cmake_parse_arguments(A "" "NAME;PLACE" "SRCS;DEPS;LIBS" ${ARGN})
  foreach(dep IN LISTS A_DEPS)
    sounder_check_edge(${A_PLACE} ${dep})
  endforeach()
  sounder_check_libs(${A_NAME} ${A_LIBS})
  add_executable(${A_NAME} ${A_SRCS})
  target_include_directories(${A_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${A_NAME} PRIVATE ${A_DEPS} ${A_LIBS})
endfunction()

# sounder_test(NAME common_base_philox_test SRCS philox_test.cc DEPS common_base [LIBS ...]
#              [LABELS asan tsan e2e ...] [ENVIRONMENT A=B ...] [TIMEOUT seconds] [ARGS ...]
#              [ASAN_CASES PATTERN] [TSAN_CASES PATTERN])
# LABELS asan / tsan: the test is built and run in that sanitizer build too (see CMakePresets).
# ASAN_CASES / TSAN_CASES: under that sanitizer only these cases run (a gtest filter): those that do
# not repeat others at greater length, and those with threads.
function(sounder_test)
  cmake_parse_arguments(A "" "NAME;TIMEOUT;ASAN_CASES;TSAN_CASES"
                        "SRCS;DEPS;LIBS;LABELS;ENVIRONMENT;ARGS" ${ARGN})
  if(SOUNDER_FUZZ)
    return()
  endif()
  if(SOUNDER_SANITIZE MATCHES "address" AND NOT "asan" IN_LIST A_LABELS)
    return()
  endif()
  if(SOUNDER_SANITIZE MATCHES "thread" AND NOT "tsan" IN_LIST A_LABELS)
    return()
  endif()
  add_executable(${A_NAME} ${A_SRCS})
  set_target_properties(${A_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_include_directories(${A_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${A_NAME} PRIVATE ${A_DEPS} ${A_LIBS} GTest::gmock GTest::gtest_main)
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 60)
  endif()
  if(SOUNDER_SANITIZE MATCHES "address" AND A_ASAN_CASES)
    list(APPEND A_ARGS "--gtest_filter=${A_ASAN_CASES}")
  endif()
  if(SOUNDER_SANITIZE MATCHES "thread" AND A_TSAN_CASES)
    list(APPEND A_ARGS "--gtest_filter=${A_TSAN_CASES}")
  endif()
  add_test(NAME ${A_NAME} COMMAND ${A_NAME} ${A_ARGS} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  if(SOUNDER_SANITIZE MATCHES "thread")
    set(suppressions ${PROJECT_SOURCE_DIR}/tests/sanitizers/tsan.supp)
    list(APPEND A_ENVIRONMENT
         "TSAN_OPTIONS=suppressions=${suppressions}:second_deadlock_stack=1:history_size=4")
  endif()
  # UCX patches madvise for its memory hooks, which breaks ThreadSanitizer at thread exit.
  set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}"
    ENVIRONMENT "UCX_MEM_MMAP_HOOK_MODE=none;${A_ENVIRONMENT}")
endfunction()

# sounder_add_house([EXCLUDE_FROM_ALL]): adds every folder of the house that has a CMakeLists.txt,
# in order. EXCLUDE_FROM_ALL: built only where something needs them.
function(sounder_add_house)
  foreach(side common kv_node gpu_worker cli)
    foreach(folder IN LISTS SOUNDER_HOUSE_${side})
      if(SOUNDER_KERNELS_ONLY AND NOT "${side}/${folder}" IN_LIST SOUNDER_KERNEL_FOLDERS)
        continue()
      endif()
      if(EXISTS ${PROJECT_SOURCE_DIR}/${side}/${folder}/CMakeLists.txt)
        add_subdirectory(${PROJECT_SOURCE_DIR}/${side}/${folder}
                         ${CMAKE_BINARY_DIR}/${side}/${folder} ${ARGN})
      endif()
    endforeach()
    if(NOT SOUNDER_KERNELS_ONLY AND EXISTS ${PROJECT_SOURCE_DIR}/${side}/CMakeLists.txt)
      add_subdirectory(${PROJECT_SOURCE_DIR}/${side} ${CMAKE_BINARY_DIR}/${side} ${ARGN})  # binary
    endif()
  endforeach()
endfunction()

# sounder_add_rooms(ROOT [EXCLUDE_FROM_ALL]): adds every folder below ROOT that has a CMakeLists.txt
# (tests/ and bench/ mirror the tree).
function(sounder_add_rooms root)
  file(GLOB_RECURSE lists CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${root}/CMakeLists.txt)
  list(SORT lists)
  foreach(list IN LISTS lists)
    get_filename_component(folder ${list} DIRECTORY)
    if(SOUNDER_KERNELS_ONLY AND NOT folder MATCHES "/(common|kv_node)/kernels$")
      continue()
    endif()
    if(SOUNDER_FUZZ AND NOT folder MATCHES "/tests/(fuzz|common/wire)$")
      continue()
    endif()
    file(RELATIVE_PATH place ${PROJECT_SOURCE_DIR} ${folder})
    add_subdirectory(${folder} ${CMAKE_BINARY_DIR}/${place} ${ARGN})
  endforeach()
endfunction()
