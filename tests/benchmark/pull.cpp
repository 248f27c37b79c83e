// The row of a large image's pull.
#include <fmt/core.h>
#include <unistd.h>

#include "tests/benchmark/bare_pull.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {

// A new image for each sample, and nothing is removed in between: ext4 does not use an inode again for minutes after
// its file is gone, and searches on past each of them, which for 24,000 files takes longer than the pull.
Status measurePull(const Options& options, Client& client, const std::string& scratch, Report& report) {
  Row row{"PullImage", {}, {}};
  for (unsigned number = 0; number < options.pullSamples; ++number) {
    USERPOD_CHECK(checkInterrupted());
    const std::string image = options.largeImage(number);
    USERPOD_TRY(layers, describeImage(image));
    auto product = [&] { return client.pull(image); };
    auto bare = [&] { return barePull(layers, fmt::format("{}/{}", scratch, number)); };
    // Neither side writes back the other's pages, nor its own last ones.
    auto alone = [](Samples& samples, auto& action) {
      ::sync();
      return timed(samples, action);
    };
    if (number % 2 == 0) USERPOD_CHECK(alone(row.product, product));
    USERPOD_CHECK(alone(row.bare, bare));
    if (number % 2 != 0) USERPOD_CHECK(alone(row.product, product));
  }
  report.print(row);
  return {};
}

}  // namespace userpod::bench
