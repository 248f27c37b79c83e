// The rows of pulls.
#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/benchmark/bare_pull.hpp"
#include "tests/benchmark/counted.hpp"
#include "tests/benchmark/pull_peers.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
const std::vector<std::string> kPullProcesses = {"userpodd", "userpodd-inner", "userpod-pull", "userpod-unpack"};

Result<double> milliseconds(const std::function<Status()>& action) {
  auto begin = Clock::now();
  USERPOD_CHECK(action());
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// One who pulls what the round's number names, and how often.
struct Contestant {
  Samples& samples;
  unsigned rounds;
  std::function<Result<double>(unsigned round)> pull;
};

// In turns, each round begun by another. None writes back another's pages, nor its own last ones.
Status compete(std::vector<Contestant> contestants) {
  unsigned rounds = 0;
  for (const auto& one : contestants) rounds = std::max(rounds, one.rounds);
  for (unsigned round = 0; round < rounds; ++round)
    for (std::size_t turn = 0; turn < contestants.size(); ++turn) {
      auto& one = contestants[(round + turn) % contestants.size()];
      if (round >= one.rounds) continue;
      USERPOD_CHECK(checkInterrupted());
      ::sync();
      USERPOD_TRY(time, one.pull(round));
      one.samples.values.push_back(time);
    }
  return {};
}

class PullRows {
 public:
  PullRows(const Options& options, Client& client, HostSide& host, std::string scratch, PullPeers& peers,
           Report& report)
      : options_(options),
        client_(client),
        host_(host),
        scratch_(std::move(scratch)),
        peers_(peers),
        report_(report),
        peerRounds_(std::min(options.peerSamples, options.pullSamples)) {}

  Status cold();
  Status memory();
  Status changedLayer();
  Status present();
  Status manySmall();

 private:
  Result<double> product(const std::string& image) {
    return milliseconds([&] { return client_.pull(image); });
  }
  Result<double> bare(const BareImage& image, const std::string& name) {
    return milliseconds([&] { return barePull(image, scratch_ + "/bare-" + name); });
  }
  // The product's samples beside a peer's, where there is one.
  void beside(const std::string& name, const Samples& product, Samples peer) {
    if (!peer.values.empty()) report_.print({name, product, std::move(peer)});
  }

  const Options& options_;
  Client& client_;
  HostSide& host_;
  const std::string scratch_;
  PullPeers& peers_;
  Report& report_;
  const unsigned peerRounds_;
};

// A new image for each sample, and nothing is removed in between: ext4 does not use an inode again for minutes after
// its file is gone, and searches on past each of them, which for 24,000 files takes longer than the pull.
Status PullRows::cold() {
  Row row{"PullImage", {}, {}};
  Samples skopeo;
  Samples podman;
  std::vector<BareImage> images;
  for (unsigned number = 0; number < options_.pullSamples; ++number) {
    USERPOD_TRY(image, describeImage(options_.largeImage(number)));
    images.push_back(std::move(image));
  }
  auto image = [&](unsigned round) { return options_.largeImage(round); };
  std::vector<Contestant> contestants{
      {row.product, options_.pullSamples, [&](unsigned round) { return product(image(round)); }},
      {row.bare, options_.pullSamples, [&](unsigned round) { return bare(images[round], std::to_string(round)); }}};
  if (peers_.hasSkopeo())
    contestants.push_back({skopeo, peerRounds_, [&](unsigned round) { return peers_.skopeoCopy(image(round)); }});
  if (peers_.hasPodman())
    contestants.push_back({podman, peerRounds_,
                           [&](unsigned round) { return peers_.podmanPull({image(round)}, std::to_string(round)); }});
  USERPOD_CHECK(compete(std::move(contestants)));
  report_.print(row);
  beside("PullImage, beside podman pull", row.product, std::move(podman));
  beside("PullImage, beside skopeo copy, no unpacking", row.product, std::move(skopeo));
  return {};
}

// In pulls of their own, as reading it takes time.
Status PullRows::memory() {
  const auto image = options_.largeImage(0);
  // With the one that has layers of it, so that none is there.
  USERPOD_CHECK(client_.removeImage(options_.changedImage(0)));
  USERPOD_CHECK(client_.removeImage(image));
  USERPOD_TRY(own, host_.memoryDuring(kPullProcesses, [&] { return client_.pull(image); }));
  Row pss{"PullImage, peak PSS of all processes", {{own.pss}}, {}, "MiB"};
  Row rss{"PullImage, peak RSS of all processes", {{own.rss}}, {}, "MiB"};
  if (peers_.hasPodman()) {
    USERPOD_TRY(podman, peers_.podmanMemory(image, "memory"));
    pss.name += ", beside Podman's";
    rss.name += ", beside Podman's";
    pss.bare.values = {podman.pss};
    rss.bare.values = {podman.rss};
  }
  report_.print(pss);
  report_.print(rss);
  return {};
}

// Two layers of three are there since cold().
Status PullRows::changedLayer() {
  Row row{"PullImage, a changed top layer", {}, {}};
  auto topOf = [&](unsigned round) -> Result<BareImage> {
    USERPOD_TRY(image, describeImage(options_.changedImage(round)));
    image.layers.erase(image.layers.begin(), image.layers.end() - 1);
    return image;
  };
  std::vector<BareImage> tops;
  for (unsigned number = 0; number < options_.pullSamples; ++number) {
    USERPOD_TRY(top, topOf(number));
    tops.push_back(std::move(top));
  }
  const unsigned timed = options_.pullSamples - 1;  // the last one is for the count
  USERPOD_CHECK(
      compete({{row.product, timed, [&](unsigned round) { return product(options_.changedImage(round)); }},
               {row.bare, timed, [&](unsigned round) { return bare(tops[round], fmt::format("top-{}", round)); }}}));
  report_.print(row);
  auto colon = options_.registry.rfind(':');
  USERPOD_TRY(way, CountedWay::open(static_cast<std::uint16_t>(std::atoi(options_.registry.c_str() + colon + 1))));
  const auto image = fmt::format("127.0.0.1:{}/{}", way->port(), options_.changedName(timed));
  USERPOD_CHECK(client_.pull(image));
  report_.print({"…bytes from the registry, beside the layer's",
                 {{static_cast<double>(way->bytes()) / 1e6}},
                 {{static_cast<double>(tops[timed].layers[0].size) / 1e6}},
                 "MB"});
  return client_.removeImage(image);
}

Status PullRows::present() {
  const auto image = options_.largeImage(0);
  USERPOD_TRY(described, describeImage(image));
  Row row{"PullImage of what is there, beside one GET", {}, {}};
  Samples podman;
  for (unsigned number = 0; number < options_.samples; ++number)
    USERPOD_CHECK(inTurns(
        row, number, 1, [&](unsigned) { return client_.pull(image); },
        [&](unsigned) { return fetchManifest(described); }));
  for (unsigned number = 0; peers_.hasPodman() && number < peerRounds_; ++number) {
    USERPOD_TRY(time, peers_.podmanPull({image}, "0"));
    podman.values.push_back(time);
  }
  report_.print(row);
  beside("PullImage of what is there, beside podman pull", row.product, std::move(podman));
  return {};
}

Status PullRows::manySmall() {
  Samples together;
  Samples podman;
  std::vector<std::string> images;
  for (unsigned number = 0; number < kSmallImages; ++number) images.push_back(options_.smallImage(number));
  std::vector<Contestant> contestants{
      {together, peerRounds_, [&](unsigned) -> Result<double> {
         for (const auto& image : images) USERPOD_CHECK(client_.removeImage(image));
         ::sync();
         Samples each;
         USERPOD_CHECK(timedTogether(each, kSmallImages, [&](unsigned index) { return client_.pull(images[index]); }));
         return each.seconds * 1000;
       }}};
  if (peers_.hasPodman())
    contestants.push_back({podman, peerRounds_,
                           [&](unsigned round) { return peers_.podmanPull(images, fmt::format("small-{}", round)); }});
  USERPOD_CHECK(compete(std::move(contestants)));
  Row row{fmt::format("{} small images at once", kSmallImages), std::move(together), std::move(podman)};
  if (!row.bare.values.empty()) row.name += ", beside podman pull, in a row";
  report_.print(row);
  return {};
}

}  // namespace

Status measurePull(const Options& options, Client& client, HostSide& host, const std::string& scratch, Report& report) {
  USERPOD_TRY(paths, userPaths());
  USERPOD_TRY(peers, PullPeers::find(host, scratch + "/peers", paths.runtime + "-bench"));
  for (const char* missing : {peers->hasPodman() ? "" : "podman", peers->hasSkopeo() ? "" : "skopeo"})
    if (*missing != '\0') fmt::print(stderr, "userpod-bench: {} is not installed: no rows beside it\n", missing);
  PullRows rows(options, client, host, scratch, *peers, report);
  USERPOD_CHECK(rows.cold());
  if (options.pullSamples > 1) USERPOD_CHECK(rows.changedLayer());
  USERPOD_CHECK(rows.present());
  USERPOD_CHECK(rows.manySmall());
  return rows.memory();
}

}  // namespace userpod::bench
