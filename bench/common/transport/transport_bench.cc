// Round trips and streams between two processes, as a worker and a node have them.
// usage: transport_bench [TLS [SPIN_US]]   (default: tcp and shm, 20)
//
// The server is a child process, forked before anything of UCX exists. A round trip is timed from
// the call of Send on the main thread to the moment the main thread knows of the answer, so it
// holds two hand-overs between threads on our side. CPU is of this process, all threads.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/transport/ucx_transport.h"

namespace sounder::transport {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

UcxOptions OptionsOf(const std::string& tls, int spin_us) {
  UcxOptions options;
  options.tls = tls;
  options.spin = std::chrono::microseconds(spin_us);
  return options;
}

// The header's first four bytes say how many bytes to answer with.
class Answering final : public TransportEvents {
 public:
  void OnAccept(ConnectionId, const std::string&) override {}
  void OnMessage(ConnectionId connection, Message message) override {
    uint32_t bytes = 0;
    std::memcpy(&bytes, message.header.data(), sizeof(bytes));
    transport->Send(connection, {std::move(message.header), memory::AlignedBuffer(bytes)},
                    SendMode::kAuto, nullptr);
  }
  void OnClosed(ConnectionId, absl::Status) override {}

  Transport* transport = nullptr;
};

class Counting final : public TransportEvents {
 public:
  void OnAccept(ConnectionId, const std::string&) override {}
  void OnMessage(ConnectionId, Message) override {
    {
      const std::lock_guard lock(mutex_);
      ++messages_;
    }
    arrived_.notify_one();
  }
  void OnClosed(ConnectionId, absl::Status reason) override { CHECK(reason.ok()) << reason; }
  void WaitFor(uint64_t messages) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return messages_ >= messages; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  uint64_t messages_ = 0;
};

class Client {
 public:
  Client(const UcxOptions& options, const std::string& address) : transport_(options) {
    CHECK(transport_.Start(&events_).ok());
    connection_ = *transport_.Connect(address);
  }
  void Send(size_t bytes, uint32_t answer_bytes, SendMode mode) {
    Message message{std::vector<std::byte>(512), memory::AlignedBuffer(bytes)};
    std::memcpy(message.header.data(), &answer_bytes, sizeof(answer_bytes));
    transport_.Send(connection_, std::move(message), mode, nullptr);
    ++sent_;
  }
  void WaitForAllBut(uint64_t window) { events_.WaitFor(sent_ - std::min(sent_, window)); }
  std::string Describe() { return transport_.Describe(connection_)->transport; }

 private:
  Counting events_;
  UcxTransport transport_;
  ConnectionId connection_ = 0;
  uint64_t sent_ = 0;
};

void RoundTrips(Client& client, const char* label, size_t bytes, uint32_t answer_bytes) {
  constexpr int kWarmUp = 200, kCount = 3000;
  std::vector<double> micros;
  Clock::time_point begin{};
  double cpu = 0;
  for (int i = 0; i < kWarmUp + kCount; ++i) {
    if (i == kWarmUp) {
      begin = Clock::now();
      cpu = CpuSeconds();
    }
    const auto start = Clock::now();
    client.Send(bytes, answer_bytes, SendMode::kEager);
    client.WaitForAllBut(0);
    if (i >= kWarmUp) micros.push_back(Seconds(Clock::now() - start) * 1e6);
  }
  const double wall = Seconds(Clock::now() - begin);
  cpu = CpuSeconds() - cpu;
  std::sort(micros.begin(), micros.end());
  std::printf("  %-30s p50 %7.1f us  p90 %7.1f  p99 %7.1f   cpu %6.1f us each (%.0f%%)\n", label,
              micros[kCount / 2], micros[kCount * 9 / 10], micros[kCount * 99 / 100],
              cpu / kCount * 1e6, cpu / wall * 100);
}

void Stream(Client& client, const char* label, size_t bytes, SendMode mode) {
  const int count = static_cast<int>((size_t{768} << 20) / bytes);
  const auto begin = Clock::now();
  double cpu = CpuSeconds();
  for (int i = 0; i < count; ++i) {
    client.Send(bytes, 0, mode);
    client.WaitForAllBut(8);
  }
  client.WaitForAllBut(0);
  const double wall = Seconds(Clock::now() - begin);
  cpu = CpuSeconds() - cpu;
  const double mib = static_cast<double>(bytes) * count / 1048576;
  std::printf("  %-30s %7.0f MiB/s                              cpu %6.1f us each (%.0f%%)\n",
              label, mib / wall, cpu / count * 1e6, cpu / wall * 100);
}

[[noreturn]] void Serve(const UcxOptions& options, int address_out, int stop_in) {
  {
    Answering answering;  // outlives the transport
    UcxTransport transport(options);
    answering.transport = &transport;
    CHECK(transport.Start(&answering).ok());
    const std::string address = *transport.Listen("127.0.0.1:0") + "\n";
    CHECK(::write(address_out, address.data(), address.size()) > 0);
    char byte;
    while (::read(stop_in, &byte, 1) > 0) continue;
  }
  ::_exit(0);
}

void Bench(const std::string& tls, int spin_us) {
  int address_pipe[2], stop_pipe[2];
  CHECK(::pipe(address_pipe) == 0 && ::pipe(stop_pipe) == 0);
  const UcxOptions options = OptionsOf(tls, spin_us);
  const pid_t server = ::fork();
  if (server == 0) {
    ::close(stop_pipe[1]);
    Serve(options, address_pipe[1], stop_pipe[0]);
  }
  ::close(stop_pipe[0]);
  std::string address;
  char byte;
  while (::read(address_pipe[0], &byte, 1) == 1 && byte != '\n') address.push_back(byte);
  const pid_t client_process = ::fork();  // a process uses one engine, and there are two rounds
  if (client_process == 0) {
    Client client(options, address);
    client.Send(0, 0, SendMode::kEager);
    client.WaitForAllBut(0);
    std::printf("%s, spin %d us, over %s\n", tls.c_str(), spin_us, client.Describe().c_str());
    RoundTrips(client, "2 KiB -> 2 KiB", 2048, 2048);
    RoundTrips(client, "22 KiB -> 16 KiB", 22 << 10, 16 << 10);
    Stream(client, "64 KiB eager, 8 in flight", 64 << 10, SendMode::kEager);
    Stream(client, "1 MiB eager, 8 in flight", 1 << 20, SendMode::kEager);
    Stream(client, "1 MiB rendezvous, 8 in flight", 1 << 20, SendMode::kRendezvous);
    std::fflush(stdout);
  }
  if (client_process == 0) ::_exit(0);
  CHECK(::waitpid(client_process, nullptr, 0) == client_process);
  ::close(stop_pipe[1]);
  CHECK(::waitpid(server, nullptr, 0) == server);
}

}  // namespace
}  // namespace sounder::transport

int main(int argc, char** argv) {
  const int spin_us = argc > 2 ? std::atoi(argv[2]) : 20;
  for (const std::string tls : {"tcp", "shm"}) {
    if (argc > 1 && tls != argv[1]) continue;
    sounder::transport::Bench(tls, spin_us);
  }
  return 0;
}
