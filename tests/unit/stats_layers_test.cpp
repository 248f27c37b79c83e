// Scans of writable layers, against du.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "daemon/stats/layers.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::stats {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct Usage {
  std::uint64_t bytes = 0;
  std::uint64_t inodes = 0;
  bool operator==(const Usage&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Usage& usage) {
  return out << usage.bytes << " bytes, " << usage.inodes << " inodes";
}

std::uint64_t du(const std::string& option, const std::string& path) {
  FILE* pipe = ::popen(("du -s -x " + option + " " + path).c_str(), "re");
  unsigned long long number = 0;
  EXPECT_EQ(::fscanf(pipe, "%llu", &number), 1);
  EXPECT_EQ(::pclose(pipe), 0);
  return number;
}

Usage du(const std::string& path) {
  return {du("--block-size=1", path), du("--inodes", path)};
}

std::size_t openDescriptors() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

bool waitUntil(const std::function<bool()>& condition, std::chrono::seconds most = 20s) {
  for (auto end = Clock::now() + most; Clock::now() < end; std::this_thread::sleep_for(5ms))
    if (condition()) return true;
  return false;
}

class Tree : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = makeDirectory();
    ASSERT_FALSE(directory_.empty());
    top_ = directory_ + "/upper";
    ASSERT_TRUE(makeDirectories(top_));
  }
  void TearDown() override {
    auto removed = removeTree(directory_);
    EXPECT_TRUE(removed) << removed.error().text();
  }
  // In memory, where there are many files to be made.
  virtual std::string makeDirectory() const {
    std::string path = "/dev/shm/userpod-test-XXXXXX";
    return ::mkdtemp(path.data()) != nullptr ? path : testing::makeTestDirectory();
  }
  void put(const std::string& name, std::size_t size) const {
    std::ofstream(top_ + "/" + name) << std::string(size, 'x');
  }

  Usage scanned() const {
    TreeScan scan(top_);
    EXPECT_EQ(scan.step(1h, [] { return false; }), TreeScan::State::Done);
    return {scan.bytes(), scan.inodes()};
  }
  // Directories in each other, the last with a file.
  void dig(int levels) const {
    UniqueFd at(::open(top_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (int i = 0; i < levels; ++i) {
      ASSERT_EQ(::mkdirat(at.get(), "d", 0755), 0);
      at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      ASSERT_TRUE(at);
      if (i % 100 == 0) UniqueFd(::openat(at.get(), "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    }
  }

  std::string directory_, top_;
};

class TreeOnDisk : public Tree {
  std::string makeDirectory() const override { return testing::makeTestDirectory(); }
};

TEST_F(TreeOnDisk, AsDuCounts) {
  ASSERT_TRUE(makeDirectories(top_ + "/a/b/c"));
  put("a/one", 1);
  put("a/b/large", 300'000);
  ::link((top_ + "/a/b/large").c_str(), (top_ + "/a/b/again").c_str());
  ::link((top_ + "/a/b/large").c_str(), (top_ + "/second").c_str());
  ::link((top_ + "/a/one").c_str(), (directory_ + "/outside").c_str());
  UniqueFd sparse(::open((top_ + "/sparse").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(sparse.get(), 1L << 40), 0);
  ASSERT_EQ(::pwrite(sparse.get(), "x", 1, 1L << 30), 1);
  std::filesystem::create_symlink("/usr", top_ + "/link");
  std::filesystem::create_symlink(std::string(3000, 'l'), top_ + "/a/long");
  std::filesystem::create_symlink("..", top_ + "/a/up");
  ASSERT_EQ(::mkfifo((top_ + "/fifo").c_str(), 0600), 0);
  put("\xff\n name", 10);
  EXPECT_EQ(scanned(), du(top_));
  EXPECT_LT(scanned().bytes, 1U << 20);
}

TEST_F(Tree, ManyEntries) {
  ASSERT_TRUE(makeDirectories(top_ + "/many"));
  for (int i = 0; i < 5000; ++i) {
    put("many/file-with-a-name-" + std::to_string(i), i % 3 == 0 ? 100 : 0);
    if (i % 10 == 0) std::filesystem::create_directory(top_ + "/many/directory-" + std::to_string(i));
  }
  EXPECT_EQ(scanned(), du(top_));
  EXPECT_EQ(scanned().inodes, 5000U + 500 + 2);
}

TEST_F(Tree, DeepAndWide) {
  dig(5000);
  // Directories that are come back to after descriptors were given up.
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(makeDirectories(top_ + "/d/d/d/side-" + std::to_string(i)));
    put("d/d/d/file-" + std::to_string(i), 10);
  }
  auto before = openDescriptors();
  TreeScan scan(top_);
  std::size_t most = 0;
  auto state = TreeScan::State::Going;
  while (state == TreeScan::State::Going) {
    state = scan.step(0s, [] { return false; });
    most = std::max(most, openDescriptors());
  }
  EXPECT_EQ(state, TreeScan::State::Done);
  EXPECT_LE(most, before + 33);
  EXPECT_EQ(openDescriptors(), before);
  EXPECT_EQ(scan.inodes(), 1 + 5000U + 50 + 600);
  EXPECT_EQ((Usage{scan.bytes(), scan.inodes()}), du(top_));
}

TEST_F(TreeOnDisk, ComesBackToWhereItWas) {
  dig(80);
  for (int i = 0; i < 500; ++i) put("d/d/file-" + std::to_string(i), 1);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(makeDirectories(top_ + "/d/d/side-" + std::to_string(i) + "/deeper"));
  EXPECT_EQ(scanned(), du(top_));
  EXPECT_EQ(scanned().inodes, 1 + 80U + 1 + 500 + 200);
}

TEST_F(Tree, MoreLinkedFilesThanAreRemembered) {
  constexpr int kFiles = 50'500;
  auto path = [this](int file, int name) { return top_ + "/" + std::to_string(name) + "-" + std::to_string(file); };
  for (int i = 0; i < kFiles; ++i) {
    UniqueFd file(::open(path(i, 0).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::write(file.get(), "x", 1), 1);
    for (int name = 1; name < 3; ++name) ASSERT_EQ(::link(path(i, 0).c_str(), path(i, name).c_str()), 0);
  }
  EXPECT_EQ(scanned().inodes, kFiles + 1U);
  // Of each name a third, rounded down.
  EXPECT_NEAR(static_cast<double>(scanned().bytes), static_cast<double>(du(top_).bytes), 2 * kFiles);
}

TEST_F(Tree, MovedAwayMeanwhile) {
  dig(500);
  TreeScan scan(top_);
  // Down first: then what is below goes elsewhere, where ".." leads to a directory that is not ours.
  while (scan.inodes() < 300) ASSERT_EQ(scan.step(0s, [] { return false; }), TreeScan::State::Going);
  std::filesystem::rename(top_ + "/d", directory_ + "/elsewhere");
  EXPECT_EQ(scan.step(1h, [] { return false; }), TreeScan::State::Lost);
}

TEST_F(Tree, RemovedMeanwhile) {
  for (int i = 0; i < 2000; ++i) put("file-" + std::to_string(i), 1);
  dig(200);
  TreeScan scan(top_);
  ASSERT_EQ(scan.step(0s, [] { return false; }), TreeScan::State::Going);
  ASSERT_TRUE(removeTree(top_));
  EXPECT_NE(scan.step(1h, [] { return false; }), TreeScan::State::Going);
  TreeScan none(top_);
  EXPECT_EQ(none.step(1h, [] { return false; }), TreeScan::State::Lost);
  std::filesystem::create_symlink("/usr", top_);
  TreeScan link(top_);
  EXPECT_EQ(link.step(1h, [] { return false; }), TreeScan::State::Lost) << "a link is not followed";
}

TEST_F(Tree, Stops) {
  for (int i = 0; i < 500; ++i) put("file-" + std::to_string(i), 0);
  TreeScan scan(top_);
  EXPECT_EQ(scan.step(1h, [] { return true; }), TreeScan::State::Going);
  EXPECT_LT(scan.inodes(), 200U);
}

class LayerScans : public Tree {
 protected:
  void open(Layers::Pace pace) {
    pace.nice = 0;  // or other tests hold it up for seconds
    layers_ = std::make_unique<Layers>(
        [this](const std::string& id) {
          ++scans_;
          return directory_ + "/" + id;
        },
        pace);
  }
  void make(const std::string& id, int files) const {
    ASSERT_TRUE(makeDirectories(directory_ + "/" + id));
    for (int i = 0; i < files; ++i) put("../" + id + "/f" + std::to_string(i), 0);
  }
  std::optional<LayerFigures> waitFor(const std::string& id) {
    waitUntil([&] { return layers_->of(id).has_value(); });
    return layers_->of(id);
  }
  // How many scans there were, once that many have begun and no more come.
  int scansDone(int least) const {
    waitUntil([&] { return scans_ >= least; });
    for (int before = -1; before != scans_; std::this_thread::sleep_for(200ms)) before = scans_;
    return scans_;
  }
  // Of the thread that scans.
  std::chrono::nanoseconds used() const {
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      auto name = readFile(task.path() / "comm");
      if (!name || trim(*name) != "stats-layers") continue;
      auto text = readFile(task.path() / "schedstat");
      return std::chrono::nanoseconds(text ? std::stoll(*text) : 0);
    }
    return {};
  }

  std::atomic<int> scans_ = 0;
  std::unique_ptr<Layers> layers_;
};

TEST_F(LayerScans, OnlyWhatIsAskedFor) {
  open({.first = 0s, .again = 50ms, .share = 1});
  put("file", 100'000);
  EXPECT_FALSE(layers_->of("upper"));
  layers_->follow("upper", false);
  auto first = waitFor("upper");
  ASSERT_TRUE(first);
  EXPECT_GT(first->timestamp, 0);
  EXPECT_EQ((Usage{first->bytes, first->inodes}), du(top_));
  int scans = scansDone(2);
  EXPECT_GT(scans, 1) << "it was asked for";
  put("more", 100'000);
  EXPECT_EQ(scansDone(scans), scans) << "nobody asked";
  EXPECT_EQ(layers_->of("upper")->inodes, 2U);
  EXPECT_EQ(scansDone(scans + 1), scans + 1);
  ASSERT_TRUE(waitUntil([&] { return layers_->of("upper")->inodes == 3; }));
  EXPECT_GT(layers_->of("upper")->timestamp, first->timestamp);
  EXPECT_GT(layers_->of("upper")->bytes, first->bytes);
  layers_->forget("upper");
  EXPECT_FALSE(layers_->of("upper"));
}

TEST_F(LayerScans, ALastTime) {
  open({.first = 0s, .again = 0s, .share = 1});
  layers_->follow("upper", false);
  ASSERT_TRUE(waitFor("upper"));
  int scans = scansDone(2);
  put("last", 10);
  layers_->follow("upper", true);
  layers_->follow("upper", true);
  ASSERT_TRUE(waitUntil([&] { return layers_->of("upper")->inodes == 2; }));
  auto timestamp = layers_->of("upper")->timestamp;
  EXPECT_EQ(scansDone(scans + 1), scans + 1) << "it rests, whoever asks";
  // It is as it was then, so the sum is of now.
  auto before = nowNanos();
  auto total = layers_->total();
  EXPECT_GE(total.timestamp, before);
  EXPECT_GT(total.timestamp, timestamp);
  EXPECT_EQ(total.inodes, 2U);
}

TEST_F(LayerScans, Total) {
  open({.first = 0s, .again = 20s, .share = 1});
  auto none = layers_->total();
  EXPECT_GT(none.timestamp, 0);
  EXPECT_EQ(none.bytes, 0U);
  make("a", 3);
  make("b", 5);
  layers_->follow("a", false);
  layers_->follow("b", false);
  layers_->follow("gone", false);
  ASSERT_TRUE(waitFor("a") && waitFor("b"));
  auto total = layers_->total();
  EXPECT_EQ(total.inodes, 4U + 6);
  EXPECT_EQ(total.bytes, du(directory_ + "/a").bytes + du(directory_ + "/b").bytes);
  EXPECT_EQ(total.timestamp, std::min(layers_->of("a")->timestamp, layers_->of("b")->timestamp));
  EXPECT_FALSE(layers_->of("gone"));
}

TEST_F(LayerScans, NothingAtRest) {
  open({.first = 0s, .again = 1ms, .share = 1});
  layers_->follow("upper", false);
  ASSERT_TRUE(waitFor("upper"));
  scansDone(2);
  auto before = used();
  ASSERT_GT(before.count(), 0);
  std::this_thread::sleep_for(500ms);
  EXPECT_EQ(used(), before) << "the thread woke up";
}

TEST_F(LayerScans, BoundAndFair) {
  // A large layer is on its way for long; small ones do not wait for it, and all keep to the share.
  make("large", 40'000);
  make("small", 10);
  constexpr double kShare = 0.05;
  open({.first = 0s, .again = 100ms, .share = kShare, .burst = 2ms});
  layers_->follow("large", false);
  auto begin = Clock::now();
  std::this_thread::sleep_for(100ms);
  layers_->follow("small", false);
  ASSERT_TRUE(waitFor("small"));
  EXPECT_FALSE(layers_->of("large")) << "too small to show anything";
  auto timestamp = waitFor("small")->timestamp;
  ASSERT_TRUE(waitUntil([&] { return layers_->of("small")->timestamp > timestamp; }));
  ASSERT_TRUE(waitFor("large"));
  EXPECT_EQ(layers_->of("large")->inodes, 40'001U);
  auto time = std::chrono::duration<double>(Clock::now() - begin).count();
  EXPECT_LT(std::chrono::duration<double>(used()).count(), kShare * time + 0.03);
}

// What a pod moves about while it is scanned is counted all the same: what was seen of it, or what was seen before.
TEST_F(LayerScans, MovedInTheMidst) {
  constexpr std::size_t kFiles = 10'000;
  dig(100);
  std::string deep = top_;
  for (int i = 0; i < 100; ++i) deep += "/d";
  for (std::size_t i = 0; i < kFiles; ++i)
    UniqueFd(::open((deep + "/" + std::to_string(i)).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  for (int i = 0; i < 50; ++i) put("beside-" + std::to_string(i), 0);
  // The newest comes first, so that those beside it come after it.
  std::filesystem::rename(top_ + "/d", directory_ + "/elsewhere");
  std::filesystem::rename(directory_ + "/elsewhere", top_ + "/d");
  auto all = du(top_).inodes;
  open({.first = 0s, .again = 1s, .share = 0.1, .burst = 2ms});
  auto before = openDescriptors();
  // Then it is on its way down to the files, which take it many slices of time.
  auto scanIsDeep = [&] { return openDescriptors() >= before + 30; };
  layers_->follow("upper", false);
  ASSERT_TRUE(waitUntil(scanIsDeep));
  std::filesystem::rename(top_ + "/d", directory_ + "/elsewhere");
  ASSERT_TRUE(waitUntil([&] { return layers_->of("upper").has_value(); }));
  auto part = *layers_->of("upper");
  EXPECT_GT(part.inodes, kFiles);
  EXPECT_LT(part.inodes, all);
  std::filesystem::rename(directory_ + "/elsewhere", top_ + "/d");
  ASSERT_TRUE(waitUntil([&] { return layers_->of("upper")->inodes == all; }));
  // What was seen before is the more of the two.
  int scans = scans_;
  ASSERT_TRUE(waitUntil([&] { return scans_ > scans && scanIsDeep(); }));
  auto whole = *layers_->of("upper");
  std::filesystem::rename(top_ + "/d", directory_ + "/elsewhere");
  ASSERT_TRUE(waitUntil([&] { return layers_->of("upper")->timestamp > whole.timestamp; }));
  EXPECT_EQ(layers_->of("upper")->inodes, all);
}

TEST_F(LayerScans, StopInTheMidst) {
  make("large", 60'000);
  open({.first = 0s, .again = 0s, .share = 0.001, .burst = 2ms});
  layers_->follow("large", false);
  ASSERT_TRUE(waitUntil([&] { return scans_ == 1; }));
  std::this_thread::sleep_for(200ms);
  ASSERT_FALSE(layers_->of("large")) << "too small to show anything";
  auto begin = Clock::now();
  layers_.reset();
  EXPECT_LT(Clock::now() - begin, 1s);
}

TEST_F(LayerScans, ForgottenInTheMidst) {
  make("large", 20'000);
  open({.first = 0s, .again = 0s, .share = 0.2, .burst = 2ms});
  layers_->follow("large", false);
  ASSERT_TRUE(waitUntil([&] { return scans_ == 1; }));
  layers_->forget("large");
  ASSERT_TRUE(removeTree(directory_ + "/large"));
  layers_->follow("upper", false);
  ASSERT_TRUE(waitFor("upper"));
  EXPECT_EQ(layers_->total().inodes, 1U);
}

}  // namespace
}  // namespace userpod::stats
