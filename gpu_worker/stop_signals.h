// SIGINT and SIGTERM, as the worker's commands take them.
#ifndef SOUNDER_GPU_WORKER_STOP_SIGNALS_H_
#define SOUNDER_GPU_WORKER_STOP_SIGNALS_H_

#include <atomic>

namespace sounder::gpu_worker {

// One in a process, made by its main thread; ends with the process.
class StopSignals {
 public:
  // What the first SIGINT asks for; SIGTERM and a second SIGINT before Consume always ask to end. A
  // signal after one that asked to end ends the process at once.
  enum class Interrupt { kEnd, kEndAnswer };
  explicit StopSignals(Interrupt interrupt);
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // What is being done is to stop.
  const std::atomic<bool>& requested() const;
  // As by a signal that asks to end, but ended_by stays as it is.
  void Request();
  // As by a second SIGINT.
  void End();
  // The answer that was to be stopped has been.
  void Consume();
  // The signal that asked to end; 0: none.
  int ended_by() const;
  // Becomes readable with a signal, until Consume.
  int descriptor() const;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_STOP_SIGNALS_H_
