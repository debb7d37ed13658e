#include "kv_node/store/linux_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <fstream>
#include <future>
#include <thread>

#include "tests/kv_node/store/scratch_folder.h"
#include "tests/kv_node/store/small_mount.h"

namespace sounder::kv_node {
namespace {

// From now on this system call of this thread is answered with the error, as container runtimes do.
void Forbid(unsigned call, unsigned error) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {std::size(code), code};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

TEST(LinuxDiskTest, ReadsByThreadsWhereUringIsForbidden) {
  ScratchFolder folder;
  std::thread([&] {
    Forbid(SYS_io_uring_setup, EPERM);
    auto disk = LinuxDisk::Start(folder.path());
    ASSERT_TRUE(disk.ok()) << disk.status().ToString();
    EXPECT_EQ((*disk)->properties().reads, "16 threads");
    EXPECT_NE((*disk)->properties().reads_why.find("io_uring_setup"), std::string::npos);
    auto file = *(*disk)->Create("a");
    ASSERT_TRUE(file->Append(RandomPages(1, 9).bytes()).ok());
    EXPECT_TRUE(SameBytes(ReadFile(**disk, file).bytes(), RandomPages(1, 9).bytes()));
  }).join();
}

// From now on each fdatasync of this thread waits until somebody answers it at the descriptor that
// is returned; -1 where the system does not have that.
int HoldSyncs() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {std::size(code), code};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  return static_cast<int>(
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

// Before, size() and appends waited for the sync: here for ever.
TEST(LinuxDiskTest, NobodyWaitsForASyncAndAFailedOneIsFinal) {
  ScratchFolder folder;
  const auto disk = *LinuxDisk::Start(folder.path());
  const auto file = *disk->Create("a");
  PageBuffer page = RandomPages(1, 1);
  ASSERT_TRUE(file->Append(page.bytes()).ok());
  std::promise<int> held;
  absl::Status synced;
  std::thread syncs([&] {
    const int listener = HoldSyncs();
    held.set_value(listener);
    if (listener >= 0) synced = file->Sync();
  });
  const int listener = held.get_future().get();
  if (listener < 0) {
    syncs.join();
    GTEST_SKIP() << "system calls cannot be held here";
  }
  seccomp_notif call{};
  ASSERT_EQ(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call), 0);
  EXPECT_EQ(file->size(), kPageBytes);
  EXPECT_EQ(*file->Append(page.bytes()), kPageBytes);
  EXPECT_EQ(file->size(), 2 * kPageBytes);
  seccomp_notif_resp answer{.id = call.id, .val = 0, .error = -EIO, .flags = 0};
  ASSERT_EQ(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), 0);
  syncs.join();
  close(listener);
  EXPECT_EQ(synced.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file->Append(page.bytes()).status(), synced);
  EXPECT_EQ(file->Sync(), synced);
  EXPECT_TRUE(SameBytes(ReadFile(*disk, file).bytes().last(kPageBytes), page.bytes()));
}

TEST(LinuxDiskTest, SaysWhatItFound) {
  ScratchFolder memory("/dev/shm");
  const auto in_memory = *LinuxDisk::Start(memory.path());
  EXPECT_EQ(in_memory->properties().file_system, "tmpfs");
  EXPECT_FALSE(in_memory->properties().direct);
  EXPECT_EQ(in_memory->properties().direct_why, "tmpfs lies in memory");
  ScratchFolder folder;
  const auto switched_off = *LinuxDisk::Start(folder.path(), {.uring = false, .direct = false});
  EXPECT_EQ(switched_off->properties().reads_why, "switched off");
  EXPECT_EQ(switched_off->properties().direct_why, "switched off");
  // Nothing is left of finding out.
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_EQ(LinuxDisk::Start(folder.path() + "/no/such").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(LinuxDisk::Start("/proc/self").status().ok(), false);
}

TEST(LinuxDiskTest, AFoldersNameIsDurableWhoeverMadeIt) {
  ScratchFolder scratch;
  const std::string folder = scratch.path() + "/a";
  EXPECT_TRUE(MakeDurableFolder(folder).ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder));
  EXPECT_TRUE(MakeDurableFolder(folder).ok());
  const absl::Status missing = MakeDurableFolder(folder + "/b/c");
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.message().find(folder + "/b/c: cannot be made, as its parent does not exist"),
            0u)
      << missing;
  // One that is there already is synced all the same: whoever made it may not have come to that.
  std::thread([&] {
    Forbid(SYS_fsync, EIO);
    EXPECT_EQ(MakeDurableFolder(folder).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(LinuxDisk::Start(folder).status().code(), absl::StatusCode::kDataLoss);
  }).join();
}

// Direct reads leave nothing in the page cache; the control is the same read through it.
TEST(LinuxDiskTest, DirectReadsBypassThePageCache) {
  ScratchFolder folder;
  const auto disk = *LinuxDisk::Start(folder.path());
  if (!disk->properties().direct) GTEST_SKIP() << disk->properties().direct_why;
  auto file = *disk->Create("a");
  ASSERT_TRUE(file->Append(RandomPages(1, 64).bytes()).ok());
  const auto cached_pages = [&] {
    const int fd = open((folder.path() + "/a").c_str(), O_RDONLY);
    void* const map = mmap(nullptr, 64 * kPageBytes, PROT_READ, MAP_SHARED, fd, 0);
    std::vector<unsigned char> resident(64);
    EXPECT_EQ(mincore(map, 64 * kPageBytes, resident.data()), 0);
    munmap(map, 64 * kPageBytes);
    close(fd);
    size_t count = 0;
    for (const unsigned char page : resident) count += page & 1;
    return count;
  };
  ReadFile(*disk, file);
  EXPECT_EQ(cached_pages(), 0u);
  const auto through_cache = *LinuxDisk::Start(folder.path(), {.direct = false});
  ReadFile(*through_cache, *through_cache->Open("a"));
  EXPECT_EQ(cached_pages(), 64u);
}

TEST(LinuxDiskTest, AFileOfAnOddLengthIsContinuedAtTheNextPage) {
  ScratchFolder folder;
  std::ofstream(folder.path() + "/a") << "short";
  const auto disk = *LinuxDisk::Start(folder.path());
  auto file = *disk->Open("a");
  EXPECT_EQ(file->size(), kPageBytes);
  PageBuffer page(kPageBytes);
  EXPECT_EQ(ReadAndWait(*disk, {{file, 0, page.bytes()}})[0].code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(*file->Append(RandomPages(1, 1).bytes()), kPageBytes);
  EXPECT_TRUE(ReadAndWait(*disk, {{file, 0, page.bytes()}})[0].ok());
  EXPECT_EQ(page.data()[4], std::byte{'t'});
  EXPECT_EQ(page.data()[5], std::byte{0});
}

// On a real file system of 1 MiB, in a mount namespace of the child's own. Exit codes: 0 as it has
// to be, 77 not allowed here, else the step that failed.
int FillATinyDisk(const std::string& path) {
  if (!MountSmall(path, "size=1m")) return kNoMount;
  auto disk = LinuxDisk::Start(path, {.uring = false, .threads = 1});
  if (!disk.ok()) return 1;
  auto file = (*disk)->Create("a");
  if (!file.ok()) return 2;
  PageBuffer pages = RandomPages(1, 100);
  for (int i = 0; i < 2; ++i) {
    if (!(*file)->Append(pages.bytes()).ok()) return 3;
  }
  const absl::Status full = (*file)->Append(pages.bytes()).status();
  if (full.code() != absl::StatusCode::kResourceExhausted) return 4;
  if (full.message().find("/a: writing 409600 bytes at 819200") == full.message().npos) return 5;
  if ((*file)->size() != 200 * kPageBytes || *(*disk)->FreeBytes() >= 100 * kPageBytes) return 6;
  // Space again: the same file goes on at the same place.
  if (!(*file)->Free(0, 100 * kPageBytes).ok()) return 7;
  const auto offset = (*file)->Append(pages.bytes());
  if (!offset.ok() || *offset != 200 * kPageBytes) return 8;
  PageBuffer all = ReadFile(**disk, *file);
  return SameBytes(all.bytes().last(pages.size()), pages.bytes()) ? 0 : 9;
}

TEST(LinuxDiskTest, AFullDiskIsResourceExhaustedAndThenGoesOn) {
  ScratchFolder folder;
  const std::string path = folder.path() + "/mount";
  std::filesystem::create_directory(path);
  const pid_t child = fork();
  if (child == 0) _exit(FillATinyDisk(path));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no mount namespaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace sounder::kv_node
