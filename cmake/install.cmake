# What `cmake --install` puts below a prefix. Components: `programs`, and `client` with the client
# library, its header, packages for CMake and pkg-config, and an example.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS sounder_node sounder_worker sounderctl
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT programs)
install(TARGETS sounder_client EXPORT Sounder
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client)
install(FILES gpu_worker/client/client.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sounder COMPONENT client)

# The library needs nothing of whoever links it: the exported targets are all of the package.
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Sounder)
install(EXPORT Sounder NAMESPACE Sounder:: FILE SounderConfig.cmake DESTINATION ${package}
  COMPONENT client)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/SounderConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/SounderConfigVersion.cmake DESTINATION ${package}
  COMPONENT client)

# Relative to where the file lies, so that the prefix can be moved.
file(RELATIVE_PATH prefix_from_pc /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" prefix_from_pc ${prefix_from_pc})
configure_file(cmake/sounder-client.pc.in ${CMAKE_BINARY_DIR}/sounder-client.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/sounder-client.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT client)

foreach(component programs client)
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT ${component})
endforeach()
install(DIRECTORY docs/examples DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT client)
