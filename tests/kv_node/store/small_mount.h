// A small file system, for tests of a full disk.
#ifndef SOUNDER_TESTS_KV_NODE_STORE_SMALL_MOUNT_H_
#define SOUNDER_TESTS_KV_NODE_STORE_SMALL_MOUNT_H_

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace sounder::kv_node {

// Of a process that could not mount.
inline constexpr int kNoMount = 77;

// Mounts a tmpfs ("size=1m") there, which only this process sees, as root in namespaces of its own.
// False where that is forbidden. For a child process that has one thread.
inline bool MountSmall(const std::string& path, const char* size) {
  const uid_t user = getuid();
  const gid_t group = getgid();
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
  std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
  return mount("tmpfs", path.c_str(), "tmpfs", 0, size) == 0;
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_STORE_SMALL_MOUNT_H_
