// Lists of many images, and one of them.
#include <fmt/core.h>

#include "tests/benchmark/rows.hpp"

namespace userpod::bench {

// Of those that there are: tests/bench gives a daemon of its own ten thousand.
Status measureImages(const Options& options, Client& client, const UniqueFd& outerMemory, Report& report) {
  USERPOD_TRY(memory, daemonMemory(outerMemory));
  USERPOD_TRY(names, client.listImages());
  if (names.empty()) return Error(Code::InvalidState, "there is no image: userpod-seed-images makes some");
  Row lists{fmt::format("ListImages, {} images", names.size()), {}, {}};
  Row one{fmt::format("ImageStatus, {} images", names.size()), {}, {}};
  for (unsigned sample = 0; sample < options.samples; ++sample) {
    USERPOD_CHECK(checkInterrupted());
    USERPOD_CHECK(timed(lists.product, [&]() -> Status {
      USERPOD_TRY(listed, client.listImages());
      return listed.size() == names.size() ? Status() : Error(Code::Internal, "images came or went");
    }));
    const std::string& name = names[sample * names.size() / options.samples];
    USERPOD_CHECK(timed(one.product, [&]() -> Status {
      USERPOD_TRY(there, client.hasImage(name));
      return there ? Status() : Error(Code::Internal, "image " + name + " is listed and not found");
    }));
  }
  report.print(lists);
  report.print(one);
  report.print(valueRow(fmt::format("daemon RSS, {} images", names.size()), memory.rss, "MiB"));
  USERPOD_TRY(after, daemonMemory(outerMemory));
  report.print(valueRow("  after these lists", after.rss, "MiB"));
  return {};
}

}  // namespace userpod::bench
