// Figures of cgroups, processes and networks: what odd texts make of them, and that they are those of their source.
#include "daemon/stats/stats.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include "daemon/stats/cgroup.hpp"
#include "daemon/stats/cpu_rate.hpp"
#include "daemon/stats/network.hpp"
#include "daemon/stats/processes.hpp"
#include "daemon/sys/netlink.hpp"
#include "daemon/sys/util.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::stats {
namespace {

using namespace std::chrono_literals;

TEST(CgroupTexts, Number) {
  EXPECT_EQ(parseNumber("4096\n"), 4096U);
  EXPECT_EQ(parseNumber("0\n"), 0U);
  EXPECT_EQ(parseNumber("18446744073709551615\n"), 18446744073709551615U);
  for (const char* none : {"max\n", "", "\n", "-1\n", "12x\n", "1 2\n", "18446744073709551616\n", "0x10\n"})
    EXPECT_FALSE(parseNumber(none)) << none;
}

TEST(CgroupTexts, Pressure) {
  auto pressure = parsePressure(
      "some avg10=1.25 avg60=0.50 avg300=100.00 total=123456789\n"
      "full avg10=0.00 avg60=0.00 avg300=0.01 total=42\n");
  ASSERT_TRUE(pressure);
  EXPECT_DOUBLE_EQ(pressure->some.avg10, 1.25);
  EXPECT_DOUBLE_EQ(pressure->some.avg60, 0.5);
  EXPECT_DOUBLE_EQ(pressure->some.avg300, 100);
  EXPECT_EQ(pressure->some.total, 123456789U);
  EXPECT_DOUBLE_EQ(pressure->full.avg300, 0.01);
  EXPECT_EQ(pressure->full.total, 42U);
  // Before Linux 5.13 cpu.pressure has no second line; new names may come.
  auto half = parsePressure("some avg10=2.00 avg1000=1 total=7 total\nsometimes total=8\n");
  ASSERT_TRUE(half);
  EXPECT_EQ(half->some.total, 7U - 7U);  // said twice, the second time without a number
  EXPECT_EQ(half->full.total, 0U);
  EXPECT_FALSE(parsePressure(""));
  EXPECT_FALSE(parsePressure("nothing of the kind\n"));
}

TEST(CgroupTexts, Cpu) {
  auto cpu = parseCpu(
      "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\ncore_sched.force_idle_usec 0\n"
      "nr_periods 10\nnr_throttled 3\nthrottled_usec 70\nnr_bursts 0\n");
  EXPECT_EQ(cpu.usage, 1'500'000U);
  EXPECT_EQ(cpu.user, 1'000'000U);
  EXPECT_EQ(cpu.system, 500'000U);
  EXPECT_EQ(cpu.periods, 10U);
  EXPECT_EQ(cpu.throttledPeriods, 3U);
  EXPECT_EQ(cpu.throttledTime, 70'000U);
  auto bare = parseCpu("usage_usec 18446744073709551\nuser_usec 18446744073709552\nsystem_usec\n\nsystem_usec x");
  EXPECT_EQ(bare.usage, 18446744073709551000U);
  EXPECT_FALSE(bare.user) << "an overflow";
  EXPECT_FALSE(bare.system);
  EXPECT_FALSE(bare.throttledTime) << "no controller, no zero";
}

TEST(CgroupTexts, Memory) {
  MemoryFigures memory{.usage = 1000, .limit = 900};
  parseMemoryStat("anon 600\nfile 400\ninactive_file 150\nfile_mapped 7\npgfault 12\npgmajfault 1\nfile_thp 9\n",
                  memory);
  EXPECT_EQ(memory.anonymous, 600U);
  EXPECT_EQ(memory.cache, 400U);
  EXPECT_EQ(memory.mappedFile, 7U);
  EXPECT_EQ(memory.workingSet, 850U);
  EXPECT_EQ(memory.available, 50U);
  EXPECT_EQ(memory.pageFaults, 12U);
  EXPECT_EQ(memory.majorPageFaults, 1U);
  MemoryFigures behind{.usage = 100, .limit = 10};  // the two files are read one after the other
  parseMemoryStat("inactive_file 150\n", behind);
  EXPECT_EQ(behind.workingSet, 0U);
  EXPECT_EQ(behind.available, 10U);
  MemoryFigures above{.usage = 100, .limit = 10};
  parseMemoryStat("inactive_file 0\n", above);
  EXPECT_EQ(above.available, 0U);
  MemoryFigures unlimited{.usage = 100};
  parseMemoryStat("inactive_file 1\n", unlimited);
  EXPECT_EQ(unlimited.workingSet, 99U);
  EXPECT_FALSE(unlimited.available);
  MemoryFigures without{.usage = 100, .limit = 200};
  parseMemoryStat("anon 3\n", without);
  EXPECT_FALSE(without.workingSet);
  EXPECT_FALSE(without.available);
  parseMemoryEvents("low 0\nhigh 4\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n", without);
  EXPECT_EQ(without.limitHits, 5U);
  EXPECT_EQ(without.oomKills, 1U);
}

TEST(CgroupTexts, Io) {
  auto devices = parseIo(
      "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"
      "259:1048575 \n254:0\nnone rbytes=1\n8: rbytes=1\n:1 rbytes=1\n8:1:2 rbytes=1\n253:0 rbytes= wios=x wbytes=9");
  ASSERT_EQ(devices.size(), 4U);
  EXPECT_EQ(devices[0].major, 8U);
  EXPECT_EQ(devices[0].minor, 16U);
  EXPECT_EQ(devices[0].readBytes, 1U);
  EXPECT_EQ(devices[0].writtenBytes, 2U);
  EXPECT_EQ(devices[0].reads, 3U);
  EXPECT_EQ(devices[0].writes, 4U);
  EXPECT_EQ(devices[1].minor, 1048575U);
  EXPECT_EQ(devices[3].writtenBytes, 9U);
  EXPECT_EQ(devices[3].writes, 0U);
}

class StatsDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::makeTestDirectory();
    ASSERT_FALSE(directory_.empty());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  void put(const std::string& name, const std::string& text) { std::ofstream(directory_ + "/" + name) << text; }

  std::string directory_;
};

class Cgroup : public StatsDirectory {
 protected:
  std::optional<CgroupFigures> read(Detail detail) {
    CgroupReader reader;
    return reader.read(directory_, detail);
  }
};

TEST_F(Cgroup, WithControllers) {
  for (const auto& [name, text] : std::vector<std::pair<std::string, std::string>>{
           {"cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"},
           {"cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"},
           {"memory.current", "5000\n"},
           {"memory.stat", "anon 1\nfile 2\ninactive_file 1000\n"},
           {"memory.max", "8000\n"},
           {"memory.peak", "6000\n"},
           {"memory.events", "max 1\noom_kill 2\n"},
           {"memory.swap.current", "0\n"},
           {"memory.swap.max", "max\n"},
           {"memory.pressure", "some total=2\n"},
           {"pids.current", "3\n"},
           {"pids.max", "30\n"},
           {"io.pressure", "full total=3\n"},
           {"io.stat", "8:0 rbytes=1\n"}})
    put(name, text);
  auto usual = read(Detail::Usual);
  ASSERT_TRUE(usual);
  EXPECT_GT(usual->timestamp, 0);
  EXPECT_EQ(usual->cpu.usage, 5000U);
  EXPECT_EQ(usual->cpu.throttledTime, 0U) << "a true zero";
  EXPECT_EQ(usual->cpu.pressure->some.total, 1U);
  EXPECT_EQ(usual->memory.usage, 5000U);
  EXPECT_EQ(usual->memory.limit, 8000U);
  EXPECT_EQ(usual->memory.workingSet, 4000U);
  EXPECT_EQ(usual->memory.available, 4000U);
  EXPECT_EQ(usual->memory.swap, 0U);
  EXPECT_FALSE(usual->memory.swapLimit);
  EXPECT_EQ(usual->memory.pressure->some.total, 2U);
  EXPECT_EQ(usual->tasks, 3U);
  EXPECT_EQ(usual->io.pressure->full.total, 3U);
  EXPECT_FALSE(usual->memory.peak) << "not among the usual ones";
  EXPECT_FALSE(usual->io.devices || usual->tasksLimit);
  auto all = read(Detail::All);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->memory.peak, 6000U);
  EXPECT_EQ(all->tasksLimit, 30U);
  EXPECT_EQ(all->memory.limitHits, 1U);
  EXPECT_EQ(all->memory.oomKills, 2U);
  ASSERT_TRUE(all->io.devices);
  EXPECT_EQ(all->io.devices->size(), 1U);
}

TEST_F(Cgroup, WithoutControllers) {
  put("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n");
  auto figures = read(Detail::All);
  ASSERT_TRUE(figures);
  EXPECT_EQ(figures->cpu.usage, 0U);
  EXPECT_FALSE(figures->cpu.periods || figures->cpu.pressure);
  const auto& memory = figures->memory;
  EXPECT_FALSE(memory.usage || memory.workingSet || memory.limit || memory.available || memory.peak || memory.swap ||
               memory.oomKills || memory.pressure);
  EXPECT_FALSE(figures->tasks || figures->tasksLimit || figures->io.devices || figures->io.pressure);
}

TEST_F(Cgroup, Gone) {
  put("memory.current", "5000\n");
  EXPECT_FALSE(read(Detail::Usual)) << "the rest went while it was read";
  CgroupReader reader;
  EXPECT_FALSE(reader.read(directory_ + "/none", Detail::Usual));
  EXPECT_FALSE(reader.read(directory_ + "/memory.current", Detail::Usual));
}

TEST_F(Cgroup, LongText) {
  std::string lines;
  while (lines.size() < 16384) lines += "8:" + std::to_string(lines.size()) + " rbytes=1\n";
  put("io.stat", lines);
  put("cpu.stat", "usage_usec 1\n");
  auto figures = read(Detail::All);
  ASSERT_TRUE(figures && figures->io.devices);
  for (const auto& device : *figures->io.devices) EXPECT_EQ(device.readBytes, 1U) << "a line that was cut";
  EXPECT_GT(figures->io.devices->size(), 500U);
}

constexpr std::uint64_t kSecond = 1'000'000'000;

TEST(CpuRate, SinceTheStart) {
  CpuRates rates;
  auto at = CpuRates::Clock::now();
  EXPECT_EQ(rates.sample("a", kSecond, at, 4s), kSecond / 4);
  // Soon after it is still that time which counts, and half a second after the sample, that.
  auto soon = rates.sample("a", kSecond + kSecond / 10, at + 100ms, 4s);
  ASSERT_TRUE(soon);
  EXPECT_NEAR(static_cast<double>(*soon), 1.1e9 / 4.1, 1e3);
  EXPECT_EQ(rates.sample("a", 2 * kSecond, at + 1s, 5s), kSecond);
}

TEST(CpuRate, AllProcessors) {
  CpuRates rates;
  auto at = CpuRates::Clock::now();
  auto processors = static_cast<std::uint64_t>(::sysconf(_SC_NPROCESSORS_CONF));
  // With what was used to make it, and what came between the two clocks.
  EXPECT_EQ(rates.sample("a", processors * kSecond + kSecond / 20, at, 1s), processors * kSecond);
}

TEST(CpuRate, BetweenSamples) {
  CpuRates rates;
  auto at = CpuRates::Clock::now();
  EXPECT_FALSE(rates.sample("a", 0, at, 100ms)) << "too young";
  EXPECT_FALSE(rates.sample("a", kSecond / 10, at + 400ms, 500ms));
  EXPECT_EQ(rates.sample("a", kSecond / 2, at + 500ms, 600ms), kSecond);
  EXPECT_EQ(rates.sample("a", kSecond / 2, at + 2500ms, 600ms), 0U) << "nothing of late";
  EXPECT_FALSE(rates.sample("b", 7, at, 0s));
  rates.forget("a");
  EXPECT_FALSE(rates.sample("a", kSecond, at + 5s, 0s));
}

TEST(CpuRate, ClocksThatJump) {
  CpuRates rates;
  auto at = CpuRates::Clock::now();
  EXPECT_FALSE(rates.sample("back", 1000 * kSecond, at, -3600s));
  EXPECT_FALSE(rates.sample("backToTheStart", 100'000 * kSecond, at, 1s)) << "more processors than there are";
  EXPECT_FALSE(rates.sample("forth", kSecond, at, 24h * 365 * 30)) << "before the machine's start";
  // Afterwards samples alone count.
  EXPECT_EQ(rates.sample("back", 1001 * kSecond, at + 1s, -3600s), kSecond);
  EXPECT_EQ(rates.sample("backToTheStart", 100'001 * kSecond, at + 1s, 2s), kSecond);
  EXPECT_EQ(rates.sample("forth", 2 * kSecond, at + 1s, 24h * 365 * 30), kSecond);
}

TEST(CpuRate, AnotherCgroupOfThatName) {
  CpuRates rates;
  auto at = CpuRates::Clock::now();
  rates.sample("a", 50 * kSecond, at, 100s);
  EXPECT_FALSE(rates.sample("a", kSecond, at + 1s, 1s));
  EXPECT_EQ(rates.sample("a", 2 * kSecond, at + 2s, 2s), kSecond);
  // Two threads that read one after the other, and arrive the other way round.
  EXPECT_TRUE(rates.sample("a", 2 * kSecond - 1000, at + 1900ms, 2s));
  EXPECT_EQ(rates.sample("a", 3 * kSecond, at + 3s, 3s), kSecond);
}

using Processes = StatsDirectory;

TEST_F(Processes, OfACgroup) {
  auto own = std::to_string(::getpid());
  put("cgroup.procs", own + "\n");
  put("cgroup.threads", own + "\n" + own + "\n");
  std::filesystem::create_directory(directory_ + "/exec-1");
  put("exec-1/cgroup.procs", "0\n");  // one that this PID namespace does not see
  put("exec-1/cgroup.threads", "0\n");
  auto figures = readProcesses(directory_, ::getpid(), std::nullopt);
  EXPECT_EQ(figures.processes, 2U);
  EXPECT_EQ(figures.threads, 3U);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(figures.softFileLimit, limit.rlim_cur);
  EXPECT_FALSE(figures.sockets);
  EXPECT_FALSE(figures.descriptors) << "not of all of them";
  EXPECT_EQ(readProcesses(directory_, ::getpid(), 17).threads, 17U);
  put("exec-1/cgroup.procs", "");
  auto visible = readProcesses(directory_, 0, 1);
  EXPECT_FALSE(visible.softFileLimit);
  auto more = openFile("/dev/null", O_RDONLY);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto after = readProcesses(directory_, 0, 1);
  ASSERT_TRUE(visible.descriptors && visible.sockets && after.descriptors && after.sockets);
  EXPECT_EQ(*visible.descriptors + 2, *after.descriptors);
  EXPECT_EQ(*visible.sockets + 1, *after.sockets);
}

// As systemd in a container makes them.
TEST_F(Processes, InCgroupsFarBelowAreNotToldInPart) {
  auto own = std::to_string(::getpid());
  for (const char* name : {"init.scope", "system.slice", "system.slice/a.service"})
    std::filesystem::create_directory(directory_ + "/" + name);
  put("init.scope/cgroup.procs", own + "\n");
  put("cgroup.stat", "nr_descendants 3\nnr_dying_descendants 1\n");
  auto figures = readProcesses(directory_, ::getpid(), 5);
  EXPECT_FALSE(figures.processes);
  EXPECT_EQ(figures.threads, 5U);
  EXPECT_FALSE(figures.descriptors);
  EXPECT_FALSE(figures.sockets);
  EXPECT_TRUE(figures.softFileLimit);
  EXPECT_FALSE(readProcesses(directory_, 0, std::nullopt).threads);
  put("cgroup.stat", "nr_descendants 2\nnr_dying_descendants 1\n");
  EXPECT_EQ(readProcesses(directory_, 0, 5).processes, 1U);
}

TEST_F(Processes, InTooManyCgroupsAreNotToldInPart) {
  for (int i = 0; i < 65; ++i) std::filesystem::create_directory(directory_ + "/exec-" + std::to_string(i));
  put("cgroup.stat", "nr_descendants 65\n");
  EXPECT_FALSE(readProcesses(directory_, 0, 65).processes);
  std::filesystem::remove(directory_ + "/exec-7");
  put("cgroup.stat", "nr_descendants 64\n");
  EXPECT_EQ(readProcesses(directory_, 0, 65).processes, 0U);
}

TEST_F(Processes, ManyOfThem) {
  std::string pids;
  for (int i = 0; i < 20000; ++i) pids += std::to_string(100000 + i) + "\n";
  put("cgroup.procs", pids);
  auto figures = readProcesses(directory_, 0, 20000);
  EXPECT_EQ(figures.processes, 20000U);
  EXPECT_FALSE(figures.descriptors);
  EXPECT_FALSE(readProcesses(directory_ + "/none", 1, 0).processes);
}

TEST(ProcessTexts, FileLimit) {
  EXPECT_EQ(parseSoftFileLimit("Max processes             5                    6                    processes\n"
                               "Max open files            1024                 524288               files     \n"),
            1024U);
  EXPECT_FALSE(parseSoftFileLimit("Max open files            unlimited            unlimited            files\n"));
  EXPECT_FALSE(parseSoftFileLimit("Max open files"));
  EXPECT_FALSE(parseSoftFileLimit(""));
}

// In namespaces of a child's own: what fails there is told by its exit status, after its text.
void inOwnNetwork(const std::function<void()>& test) {
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::string refused = testing::enterUserNamespace();
    if (refused.empty() && ::unshare(CLONE_NEWNET) != 0) refused = "no network namespace";
    if (!refused.empty()) {
      std::cerr << refused << "\n";
      ::_exit(77);
    }
    test();
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "needs user namespaces";
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

std::string ownNamespace() {
  return "/proc/" + std::to_string(::getpid()) + "/task/" + std::to_string(::syscall(SYS_gettid)) + "/ns/net";
}

// Two interfaces that are each other's end, both up.
void addPair(const std::string& name, const std::string& peer) {
  auto netlink = Netlink::open();
  ASSERT_TRUE(netlink) << netlink.error().text();
  NetlinkBatch batch;
  batch.begin<ifinfomsg>(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, "add " + name);
  batch.putText(IFLA_IFNAME, name);
  batch.openNest(IFLA_LINKINFO);
  batch.putText(IFLA_INFO_KIND, "veth");
  batch.openNest(IFLA_INFO_DATA);
  batch.openNest(VETH_INFO_PEER);
  batch.raw<ifinfomsg>();
  batch.putText(IFLA_IFNAME, peer);
  batch.closeNest();
  batch.closeNest();
  batch.closeNest();
  for (const auto& up : {name, peer}) {
    auto& link = batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "set up " + up);
    link.ifi_flags = link.ifi_change = IFF_UP;
    batch.putText(IFLA_IFNAME, up);
  }
  auto done = netlink->run(batch);
  ASSERT_TRUE(done) << done.error().text();
}

// The numbers behind the name in /proc/net/dev of the calling thread.
std::vector<std::uint64_t> deviceLine(const std::string& name) {
  std::ifstream file("/proc/thread-self/net/dev");
  for (std::string word; file >> word;) {
    if (word != name + ":") continue;
    std::vector<std::uint64_t> numbers(16);
    for (auto& number : numbers) file >> number;
    return numbers;
  }
  return {};
}

void sendPackets(int count) {
  int fd = ::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct {
    std::uint16_t family, protocol;
    std::int32_t index;
    std::uint16_t type;
    std::uint8_t packet, size;
    std::uint8_t address[8];
  } to{AF_PACKET, htons(0x88b5), static_cast<std::int32_t>(::if_nametoindex("eth0")), 0, 0, 6, {}};
  std::string data(1000, 'x');
  for (int i = 0; i < count; ++i)
    EXPECT_EQ(::sendto(fd, data.data(), data.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 1000);
  ::close(fd);
}

TEST(Network, CountersAreTheNamespaces) {
  inOwnNetwork([] {
    addPair("a0", "eth0");
    sendPackets(20);
    auto path = ownNamespace();
    std::string empty;
    std::thread([&] {
      ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
      empty = ownNamespace();
      auto found = readInterfaces({empty, "", path, "/proc/self/none", "/dev/null"});
      ASSERT_EQ(found.size(), 5U);
      EXPECT_TRUE(found[0].empty()) << "lo only: " << found[0].front().name;
      EXPECT_TRUE(found[1].empty());
      EXPECT_TRUE(found[3].empty());
      EXPECT_TRUE(found[4].empty());
      std::vector<std::string> names;
      for (const auto& interface : found[2]) names.push_back(interface.name);
      EXPECT_EQ(names, (std::vector<std::string>{"eth0", "a0"}));
    }).join();
    auto before = deviceLine("eth0");
    auto found = readInterfaces({path})[0];
    auto after = deviceLine("eth0");
    ASSERT_EQ(before.size(), 16U);
    ASSERT_EQ(found.size(), 2U);
    const auto& figures = found[0];
    EXPECT_GE(figures.sentBytes, 20'000U);
    const std::vector<std::uint64_t> told = {figures.receivedBytes, figures.receivedPackets, figures.receiveErrors,
                                             figures.receiveDrops,  figures.sentBytes,       figures.sentPackets,
                                             figures.sendErrors,    figures.sendDrops};
    const std::vector<std::size_t> columns = {0, 1, 2, 3, 8, 9, 10, 11};
    for (std::size_t i = 0; i < told.size(); ++i) {
      EXPECT_GE(told[i], before[columns[i]]) << i;
      EXPECT_LE(told[i], after[columns[i]]) << i;
    }
    EXPECT_FALSE(std::filesystem::exists(empty));
  });
}

TEST(Network, HostileNames) {
  inOwnNetwork([] {
    addPair("\xff\xfe", "x\x01y");
    for (int i = 0; i < 50; ++i) addPair("p" + std::to_string(i), "q" + std::to_string(i));
    auto found = readInterfaces({ownNamespace()})[0];
    EXPECT_EQ(found.size(), 64U) << "not as many as there are";
    for (const auto& interface : found) EXPECT_TRUE(isUtf8(interface.name));
    EXPECT_GT(::if_nametoindex("p49"), 0U);
  });
}

}  // namespace
}  // namespace userpod::stats
