// The parts of the bus front end that need no bus: paths, text, comparison of views, options and filters.
#include <gtest/gtest.h>

#include "daemon/sys/util.hpp"
#include "dbus/network_map.hpp"
#include "dbus/options.hpp"
#include "dbus/paths.hpp"
#include "dbus/stats_map.hpp"
#include "dbus/views.hpp"

namespace userpod::bus {
namespace {

using Names = std::vector<std::string>;

TEST(BusPaths, AnyIdGivesAValidPath) {
  EXPECT_EQ(podPath("0af3"), "/org/userpod1/pods/0af3");
  EXPECT_EQ(containerPath("0af3"), "/org/userpod1/containers/0af3");
  EXPECT_EQ(imagePath("sha256:beef"), "/org/userpod1/images/beef");
  EXPECT_EQ(imagePath(""), "/org/userpod1/images/_");
  EXPECT_EQ(imagePath("a/b_"), "/org/userpod1/images/a_2fb_5f");
  EXPECT_EQ(jobPath(7), "/org/userpod1/jobs/7");
}

TEST(BusText, MalformedBytesAreReplacedAndTheRestStays) {
  EXPECT_EQ(cleanText("plain äöü €"), "plain äöü €");
  EXPECT_EQ(cleanText("a\xff\xfe z"), "a\xEF\xBF\xBD\xEF\xBF\xBD z");
  EXPECT_EQ(cleanText("cut \xE2\x82"), "cut \xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(cleanText("surrogate \xED\xA0\x80"), "surrogate \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(cleanText(std::string("nul\0nul", 7)), "nul\xEF\xBF\xBDnul");
  for (int byte = 0; byte < 256; ++byte) EXPECT_TRUE(isUtf8(cleanText(std::string(3, static_cast<char>(byte)))));
}

ContainerRecord runningContainer() {
  ContainerRecord record;
  record.id = std::string(64, 'c');
  record.podId = std::string(64, 'a');
  record.imageId = "sha256:" + std::string(64, '1');
  record.state = ContainerRecord::State::Running;
  record.config.environment = {{"PASSWORD", "hunter2"}};
  record.processArgs = {"/bin/sh", "-c", "\xff"};
  record.cgroup = "/pods/a/c";
  record.createdAt = 5'000'000;
  record.startedAt = 7'000'999;
  return record;
}

TEST(BusViews, AContainerEndedByASignalSaysSo) {
  auto record = runningContainer();
  auto before = makeContainerView(record, "/user.slice/node", 4711);
  EXPECT_EQ(before.state, "running");
  EXPECT_EQ(before.pid, 4711U);
  EXPECT_EQ(before.startedAt, 7000U);
  EXPECT_EQ(before.cgroupPath, "/user.slice/node/pods/a/c");
  EXPECT_EQ(before.command.at(2), Bytes{0xff});
  record.state = ContainerRecord::State::Exited;
  record.finishedAt = 9'000'000;
  record.exitCode = 137;
  record.reason = "OOMKilled";
  auto after = makeContainerView(record, "/user.slice/node", 0);
  EXPECT_EQ(after.exitSignal, 9U);
  EXPECT_EQ(changedProperties(before, after),
            (Names{"State", "Pid", "ExitCode", "ExitSignal", "Reason", "FinishedAt"}));
  EXPECT_TRUE(changedProperties(after, after).empty());
  record.exitCode = 200;
  EXPECT_EQ(makeContainerView(record, "", 0).exitSignal, 0U);
}

TEST(BusViews, ConstPropertiesAreNeverAnnounced) {
  PodView before;
  PodView after;
  after.id = "x";
  after.cgroupPath = "/other";
  after.state = "ready";
  EXPECT_EQ(changedProperties(before, after), Names{"State"});
}

TEST(BusViews, NoPropertyHoldsTheEnvironment) {
  for (const auto& name : propertyNames<ContainerView>()) EXPECT_EQ(name.find("Env"), std::string::npos);
}

TEST(BusViews, AddressesAreBytes) {
  PodRecord record;
  record.addresses = {"10.88.0.7", "fd00::1", "not an address"};
  auto view = makePodView(record, "", {});
  ASSERT_EQ(view.addresses.size(), 2U);
  EXPECT_EQ(view.addresses[0], (Address{2, Bytes{10, 88, 0, 7}}));
  EXPECT_EQ(view.addresses[1].get<0>(), 10);
  EXPECT_EQ(view.addresses[1].get<1>().size(), 16U);
}

TEST(BusViews, AJobShowsProgressAndEnd) {
  core::JobRecord record;
  record.id = 3;
  record.type = "pull-image";
  record.object = "registry/name";
  record.state = core::JobRecord::State::Running;
  auto unknown = makeJobView(record);
  EXPECT_EQ(unknown.progress, -1);
  EXPECT_TRUE(unknown.cancelable);
  EXPECT_TRUE(unknown.objects.empty());
  record.progress = {"downloading", 25, 100, {{"sha256:1", "downloading", 25, 100}}};
  EXPECT_EQ(makeJobView(record).progress, 0.25);
  record.state = core::JobRecord::State::Done;
  record.finishedAt = 1'000'000;
  record.image = "sha256:beef";
  auto done = makeJobView(record);
  EXPECT_EQ(done.progress, 1);
  EXPECT_FALSE(done.cancelable);
  EXPECT_EQ(jobResult(done.result).at("image").get<sdbus::ObjectPath>(), "/org/userpod1/images/beef");
  EXPECT_EQ(done.objects.at(0), "/org/userpod1/images/beef");
  record.state = core::JobRecord::State::Failed;
  record.error = Error(Code::NoSpace, "write: No space left on device");
  EXPECT_EQ(makeJobView(record).errorName, "org.userpod1.Error.NoSpace");
}

TEST(BusViews, APruneTellsWhatWent) {
  core::JobRecord record;
  record.type = "prune-images";
  record.state = core::JobRecord::State::Running;
  auto running = makeJobView(record);
  EXPECT_FALSE(running.cancelable);
  EXPECT_TRUE(jobResult(running.result).empty());
  record.state = core::JobRecord::State::Done;
  record.pruned = core::PruneResult{{"sha256:beef"}, 12};
  auto result = jobResult(makeJobView(record).result);
  EXPECT_EQ(result.at("images").get<Names>(), Names{"sha256:beef"});
  EXPECT_EQ(result.at("bytes").get<std::uint64_t>(), 12U);
  record.pruned = core::PruneResult{};
  EXPECT_EQ(jobResult(makeJobView(record).result).size(), 2U) << "nothing to remove is a result too";
}

TEST(BusViews, ACheckAnswersWithItsFindings) {
  core::JobRecord record;
  record.type = "check";
  record.state = core::JobRecord::State::Running;
  EXPECT_TRUE(makeJobView(record).cancelable);
  EXPECT_EQ(makeJobView(record).unit, "items");
  record.state = core::JobRecord::State::Done;
  record.findings = Findings{};
  auto clean = jobResult(makeJobView(record).result);
  EXPECT_TRUE(clean.at("findings").get<std::vector<VariantMap>>().empty()) << "nothing found is a result too";
  record.findings = {
      {"mount-unknown", Finding::Severity::Warning, "mount", "/data/\xff", "left", "repair", true, false, ""}};
  auto rows = jobResult(makeJobView(record).result).at("findings").get<std::vector<VariantMap>>();
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].at("code").get<std::string>(), "mount-unknown");
  EXPECT_EQ(rows[0].at("severity").get<std::string>(), "warning");
  EXPECT_EQ(rows[0].at("id").get<std::string>(), "/data/\xEF\xBF\xBD") << "the bus takes UTF-8 alone";
  EXPECT_TRUE(rows[0].at("repairable").get<bool>());
  EXPECT_FALSE(rows[0].at("repaired").get<bool>());
}

TEST(BusStats, WhatIsAbsentHasNoKeyAndZeroIsZero) {
  stats::ContainerFigures figures;
  EXPECT_TRUE(statsMap(figures).empty()) << "it has ended, and was not scanned";
  figures.cgroup.emplace();
  figures.cgroup->timestamp = 5'000'000;
  figures.cgroup->cpu.usage = 0;
  figures.cgroup->memory.workingSet = 17;
  figures.cgroup->io.devices.emplace();
  figures.layer = stats::LayerFigures{9'000, 4096, 2};
  auto map = statsMap(figures);
  EXPECT_EQ(map.at("timestamp").get<std::uint64_t>(), 5000U) << "microseconds";
  EXPECT_EQ(map.at("cpu-usage-nsec").get<std::uint64_t>(), 0U);
  EXPECT_EQ(map.at("memory-working-set").get<std::uint64_t>(), 17U);
  EXPECT_EQ(map.at("layer-bytes").get<std::uint64_t>(), 4096U);
  EXPECT_EQ(map.at("io-read-bytes").get<std::uint64_t>(), 0U) << "no device has read anything";
  for (const char* absent : {"memory-limit", "tasks", "cpu-rate", "cpu-pressure-some", "processes"})
    EXPECT_FALSE(map.contains(absent)) << absent;
  figures.cgroup->io.devices = {{8, 0, 1, 2, 3, 4}, {8, 16, 10, 20, 30, 40}};
  figures.cgroup->cpu.pressure = stats::Pressure{{7, 1.5, 0, 0}, {0, 0.5, 0, 0}};
  map = statsMap(figures);
  EXPECT_EQ(map.at("io-written-bytes").get<std::uint64_t>(), 22U) << "of all devices";
  EXPECT_EQ(map.at("cpu-pressure-some").get<double>(), 1.5);
  EXPECT_EQ(map.at("cpu-pressure-usec").get<std::uint64_t>(), 7U);
}

TEST(BusStats, APodHasItsInterfaces) {
  stats::PodFigures figures;
  EXPECT_FALSE(statsMap(figures).contains("interfaces")) << "the node's network";
  figures.networkTimestamp = 1'000;
  figures.interfaces = {{"eth\xff", 1, 2, 3, 4, 5, 6, 7, 8}};
  auto map = statsMap(figures);
  auto rows = map.at("interfaces").get<std::vector<VariantMap>>();
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].at("name").get<std::string>(), "eth\xEF\xBF\xBD");
  EXPECT_EQ(rows[0].at("received-bytes").get<std::uint64_t>(), 1U);
  EXPECT_EQ(rows[0].at("send-drops").get<std::uint64_t>(), 8U);
  EXPECT_EQ(map.at("network-timestamp").get<std::uint64_t>(), 1U);
}

TEST(BusViews, TheManagerCountsWhatIsShown) {
  core::Snapshot snapshot;
  auto record = runningContainer();
  snapshot.containers.push_back(std::make_shared<ContainerRecord>(record));
  record.state = ContainerRecord::State::Creating;
  snapshot.containers.push_back(std::make_shared<ContainerRecord>(record));
  snapshot.conditions = {{"RuntimeReady", true, "", ""}, {"Uplink", false, "UplinkDown", "it ended"}};
  auto view = makeManagerView(snapshot);
  EXPECT_EQ(view.containerCount, 1U);
  EXPECT_EQ(view.runningCount, 1U);
  EXPECT_EQ(view.state, "degraded");
}

core::Snapshot threePods() {
  core::Snapshot snapshot;
  for (char digit : {'a', 'b', 'c'}) {
    auto pod = std::make_shared<PodRecord>();
    pod->id = std::string(64, digit);
    pod->state = digit == 'c' ? PodRecord::State::NotReady : PodRecord::State::Ready;
    if (digit == 'b') pod->config.security.namespaces.network = NamespaceMode::Node;
    snapshot.pods.push_back(std::move(pod));
  }
  return snapshot;
}

TEST(BusNetwork, TheBridgeWithAPort) {
  network::NetworkView view;
  view.stack = "bridge";
  view.bridge = "upbr0";
  view.subnets = {"10.88.0.0/16", "fd75::/64"};
  view.addressesUsed = 2;
  view.addressesAll = 65533;
  view.uplink = "down: slirp4netns: no such file";
  view.uplinkProgram = "/usr/bin/slirp4netns";
  view.uplinkChoice = "asked for";
  view.ports = {{.podId = std::string(64, 'a'),
                 .mapping = {1, 53, 530, "127.0.0.1"},
                 .listenPort = 10530,
                 .host = {"127.0.0.1"},
                 .node = {"127.0.0.1"},
                 .sourceNote = "not \xff kept",
                 .connections = 2,
                 .total = 5'000'000'000}};
  auto map = networkMap(view, threePods(), true);
  EXPECT_EQ(map.at("subnets").get<Names>(), view.subnets);
  EXPECT_EQ(map.at("addresses-all").get<std::uint32_t>(), 65533U);
  EXPECT_EQ(map.at("uplink").get<std::string>(), "down");
  EXPECT_EQ(map.at("uplink-reason").get<std::string>(), "slirp4netns: no such file");
  EXPECT_EQ(map.at("uplink-program").get<std::string>(), "/usr/bin/slirp4netns");
  EXPECT_EQ(map.at("uplink-choice").get<std::string>(), "asked for");
  EXPECT_TRUE(map.at("host-loopback").get<bool>());
  EXPECT_FALSE(map.contains("cni"));
  auto ports = map.at("ports").get<std::vector<VariantMap>>();
  ASSERT_EQ(ports.size(), 1U);
  EXPECT_EQ(ports[0].at("pod").get<sdbus::ObjectPath>(), podPath(std::string(64, 'a')));
  EXPECT_EQ(ports[0].at("protocol").get<std::string>(), "udp");
  EXPECT_EQ(ports[0].at("container-port").get<std::uint16_t>(), 53);
  EXPECT_EQ(ports[0].at("host-port").get<std::uint16_t>(), 530);
  EXPECT_EQ(ports[0].at("listen-port").get<std::uint16_t>(), 10530);
  EXPECT_EQ(ports[0].at("source-note").get<std::string>(), "not \xEF\xBF\xBD kept");
  EXPECT_EQ(ports[0].at("total").get<std::uint64_t>(), 5'000'000'000U);
  // Only of ready pods that have a link.
  auto links = map.at("links").get<std::map<sdbus::ObjectPath, std::string>>();
  ASSERT_EQ(links.size(), 1U);
  EXPECT_EQ(links.at(sdbus::ObjectPath(podPath(std::string(64, 'a')))), "up" + std::string(13, 'a'));
}

TEST(BusNetwork, CniHasNoBridgeAndNamesItsFiles) {
  network::NetworkView view;
  view.stack = "cni";
  view.uplink = "up";
  view.problem = "no network";
  view.cni = {{"pods", "/etc/cni/net.d/10-pods.conflist", "1.0.0", {"bridge", "portmap"}, true, "bridge is missing"}};
  auto map = networkMap(view, threePods(), false);
  EXPECT_FALSE(map.contains("bridge"));
  EXPECT_FALSE(map.contains("links"));
  EXPECT_EQ(map.at("uplink").get<std::string>(), "up");
  EXPECT_EQ(map.at("uplink-reason").get<std::string>(), "");
  EXPECT_EQ(map.at("problem").get<std::string>(), "no network");
  auto networks = map.at("cni").get<std::vector<VariantMap>>();
  ASSERT_EQ(networks.size(), 1U);
  EXPECT_EQ(networks[0].at("file").get<std::string>(), "/etc/cni/net.d/10-pods.conflist");
  EXPECT_EQ(networks[0].at("plugins").get<Names>(), (Names{"bridge", "portmap"}));
  EXPECT_TRUE(networks[0].at("chosen").get<bool>());
  EXPECT_EQ(networks[0].at("problem").get<std::string>(), "bridge is missing");
}

TEST(BusOptions, AWrongTypeNamesTheOption) {
  VariantMap options = {{"force", sdbus::Variant{true}}, {"timeout-usec", sdbus::Variant{std::string("10")}}};
  EXPECT_TRUE(*flag(options, "force"));
  EXPECT_FALSE(*flag(options, "force-managed"));
  auto timeout = option<std::uint64_t>(options, "timeout-usec");
  ASSERT_FALSE(timeout);
  EXPECT_EQ(timeout.error().code(), Code::InvalidArgument);
  EXPECT_EQ(timeout.error().text(), "option \"timeout-usec\" has D-Bus type s, it must be t (unsigned, 64 bits)");
}

TEST(BusOptions, FiltersAreChecked) {
  auto parse = [](VariantMap options) { return Filter::parse(options, propertyNames<PodView>(), podStates()); };
  auto everything = parse({{"later", sdbus::Variant{true}}});
  ASSERT_TRUE(everything);
  EXPECT_TRUE(everything->wants("Labels"));
  auto some = parse({{"fields", sdbus::Variant{Names{"Id"}}}, {"labels", sdbus::Variant{StringMap{{"app", "web"}}}}});
  ASSERT_TRUE(some);
  EXPECT_TRUE(some->wants("Id"));
  EXPECT_FALSE(some->wants("Labels"));
  PodView view;
  EXPECT_FALSE(some->fitsLabels(view));
  view.labels = {{"app", "web"}, {"tier", "front"}};
  EXPECT_TRUE(some->fitsLabels(view));
  auto map = propertyMap(view, [&](const char* name) { return some->wants(name); });
  EXPECT_EQ(map.size(), 1U);
  EXPECT_FALSE(parse({{"fields", sdbus::Variant{Names{"Nope"}}}}));
  EXPECT_FALSE(parse({{"state", sdbus::Variant{std::string("asleep")}}}));
}

}  // namespace
}  // namespace userpod::bus
