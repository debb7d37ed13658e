// client_example NODE...: keeps made-up rows on KV nodes ("127.0.0.1:7400"), attends to them there,
// merges with the rows kept here, and compares with plain attention to all of them.
#include <sounder/client.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
using namespace sounder::client;
using Floats = std::vector<float>;
constexpr Position kDim = 64, kOnNodes = 1000, kEnd = 1040;  // the last rows stay here

Floats Gaussian(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(count * kDim);
  for (float& value : values) value = normal(random);
  return values;
}

void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "client_example: %s\n", status.message().c_str());
  std::exit(1);
}

struct Cache {
  Floats keys, values;  // [kEnd, kDim]; one layer, one head
  // Plain attention to rows [begin, end): the output, and its lse behind it.
  Floats Attend(const Floats& query, Position begin, Position end) const {
    double sum = 0, output[kDim] = {};
    for (Position row = begin; row < end; ++row) {
      double logit = 0;
      for (int i = 0; i < kDim; ++i) logit += query[i] * keys[row * kDim + i] / std::sqrt(kDim);
      sum += std::exp(logit);
      for (int i = 0; i < kDim; ++i) output[i] += std::exp(logit) * values[row * kDim + i];
    }
    Floats part(kDim + 1, static_cast<float>(std::log(sum)));
    for (int i = 0; i < kDim; ++i) part[i] = static_cast<float>(output[i] / sum);
    return part;
  }
};

// Appends rows from `first` on, attends to all, and prints how right that was.
void Run(const char* name, Client& client, Session& session, const Cache& cache, Position first) {
  const auto from = [&](uint32_t, uint32_t) {
    return HeadRows{&cache.keys[first * kDim], &cache.values[first * kDim]};
  };
  Check(session.Append({first, kOnNodes - first, nullptr, false, from}));
  const Floats vector = Gaussian(1, 3);
  Query query;
  query.session = &session;
  query.queries = vector.data();
  query.range = {0, kOnNodes};
  const auto pending = client.StartAttend(0, &query, 1);
  const Floats here = cache.Attend(vector, kOnNodes, kEnd);  // while the nodes do their part
  pending->Wait();
  Check(query.status);
  Merge(query.outputs.data(), query.lse.data(), here.data(), &here[kDim], 1, kDim);
  const Floats all = cache.Attend(vector, 0, kEnd);
  float error = std::fabs(query.lse[0] - all[kDim]);
  for (int i = 0; i < kDim; ++i) error = std::fmax(error, std::fabs(query.outputs[i] - all[i]));
  std::printf("%s: attended to %d rows there, off by %.0e\n", name, int(query.rows_read), error);
  if (!(error < 1e-5)) std::exit(1);
}

int main(int count, char** nodes) {
  std::unique_ptr<Client> client;
  std::unique_ptr<Session> session, child;
  Check(Client::Connect({{nodes + 1, nodes + count}}, &client));
  SessionOptions options;
  options.model = {"example", "no weights", "", "", 1, 1, 1, kDim};
  options.dtype = DType::kF32;
  Check(client->Open(options, &session));
  Cache cache{Gaussian(kEnd, 1), Gaussian(kEnd, 2)};
  Run("session", *client, *session, cache, 0);
  Check(session->Fork(600, &child));
  for (Position i = 600 * kDim; i < kEnd * kDim; ++i) cache.keys[i] *= -1;  // goes on otherwise
  Run("fork", *client, *child, cache, 600);
}
