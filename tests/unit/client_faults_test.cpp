// The registry client against a server that breaks, stalls, lies, redirects and refuses.
#include <dlfcn.h>
#include <fmt/core.h>
#include <netdb.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "tests/unit/client_bed.hpp"

namespace {

std::atomic<bool> resolverWaits = false;

}  // namespace

// libcurl's: a name that a resolver does not answer for, until the test is over.
extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
  static auto* real = reinterpret_cast<decltype(&getaddrinfo)>(dlsym(RTLD_NEXT, "getaddrinfo"));
  if (name == nullptr || std::string_view(name) != "unanswered.test") return real(name, service, hints, found);
  while (resolverWaits) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return EAI_AGAIN;
}

namespace userpod::images {
namespace {

using ClientFaults = ClientTest;

TEST_F(ClientFaults, PlainLoopbackIsChosenOnce) {
  std::string blob = someBytes(100'000);
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    connection.answer(200, request.target == kManifests ? kManifest : blob, "Content-Type: x/y\r\n");
  });
  auto registry = this->registry(server);
  auto manifest = registry.manifest("latest");
  ASSERT_TRUE(manifest) << textOf(manifest);
  EXPECT_EQ(manifest->document, kManifest);
  EXPECT_EQ(manifest->contentType, "x/y");
  EXPECT_EQ(*fetch(registry, descriptorOf(blob)), blob);
  EXPECT_TRUE(registry.smallBlob(descriptorOf(blob)));
  EXPECT_EQ(server.seen().size(), 3U);
  EXPECT_EQ(server.connections(), 1);
}

TEST_F(ClientFaults, DigestsAreChecked) {
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.target == kManifests)
      return (void)connection.answer(200, kManifest, "Docker-Content-Digest: " + sha256Digest("other") + "\r\n");
    connection.answer(200, request.target.find("manifests") != std::string::npos ? kManifest : "12345");
  });
  auto registry = this->registry(server);
  EXPECT_EQ(codeOf(registry.manifest("latest")), Code::DigestMismatch);
  EXPECT_EQ(codeOf(registry.manifest(sha256Digest("other"))), Code::DigestMismatch);
  EXPECT_TRUE(registry.manifest(sha256Digest(kManifest)));
  EXPECT_EQ(codeOf(registry.smallBlob(descriptorOf("54321"))), Code::DigestMismatch);
  EXPECT_EQ(codeOf(fetch(registry, descriptorOf("1234"))), Code::DigestMismatch);    // longer
  EXPECT_EQ(codeOf(fetch(registry, descriptorOf("123456"))), Code::DigestMismatch);  // shorter
}

TEST_F(ClientFaults, TooLargeAnswers) {
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.target == kManifests) return (void)connection.answer(200, std::string(kLargestManifest + 1, ' '));
    std::string headers;
    for (int i = 0; i < 2000; ++i) headers += fmt::format("X-{}: {}\r\n", i, std::string(90, 'x'));
    connection.answer(200, kManifest, headers);
  });
  auto registry = this->registry(server);
  EXPECT_EQ(codeOf(registry.manifest("latest")), Code::LimitsExceeded);
  EXPECT_EQ(codeOf(registry.manifest("headers")), Code::LimitsExceeded);
}

TEST_F(ClientFaults, RedirectsKeepCredentialsAtHome) {
  std::string blob = someBytes(100'000);
  FakeServer store([&](const FakeRequest& request, FakeConnection& connection) {
    connection.answer(request.header("authorization").empty() ? 200 : 400, blob);
  });
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.header("authorization").empty())
      return (void)connection.answer(401, "", "WWW-Authenticate: Basic realm=x\r\n");
    if (request.target == "/v2/a/b/manifests/same")
      return (void)connection.answer(302, "", "Location: " + kManifests + "\r\n");
    if (request.target == kManifests) return (void)connection.answer(200, kManifest);
    connection.answer(307, "moved", fmt::format("Location: http://x:y@{}/store?X-Signature=abc\r\n", store.address()));
  });
  auto registry = this->registry(server, {.username = "user", .password = "word"});
  EXPECT_TRUE(registry.manifest("same"));
  auto fetched = fetch(registry, descriptorOf(blob));
  ASSERT_TRUE(fetched) << textOf(fetched);
  EXPECT_EQ(*fetched, blob);
  EXPECT_EQ(store.seen(), std::vector<std::string>{"GET /store?X-Signature=abc"});
  EXPECT_EQ(server.authorizations().back(), "Basic dXNlcjp3b3Jk");
}

TEST_F(ClientFaults, RedirectsThatLeadNowhere) {
  std::string location;
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) { connection.answer(307, "", location); });
  auto registry = this->registry(server);
  const std::pair<std::string, std::string> cases[] = {{"Location: /v2/again?sig=abc\r\n", "more than 10 times"},
                                                       {"Location: file:///etc/passwd?sig=abc\r\n", "no URL of http"},
                                                       {"Location: ftp://127.0.0.1/?sig=abc\r\n", "no URL of http"},
                                                       {"", "status 307"}};
  for (const auto& [header, word] : cases) {
    location = header;
    auto answer = registry.manifest("latest");
    EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
    EXPECT_NE(textOf(answer).find(word), std::string::npos) << textOf(answer);
    EXPECT_EQ(textOf(answer).find("sig="), std::string::npos) << textOf(answer);
  }
  EXPECT_EQ(count(server.seen(), "GET /v2/again"), 10);
}

TEST_F(ClientFaults, AStoreThatDeniesGetsNoCredentials) {
  FakeServer store([&](const FakeRequest&, FakeConnection& connection) {
    connection.answer(401, "", "WWW-Authenticate: Basic realm=x\r\n");
  });
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) {
    connection.answer(307, "", fmt::format("Location: http://{}/?sig=abc\r\n", store.address()));
  });
  auto registry = this->registry(server, {.username = "user", .password = "word"});
  auto answer = fetch(registry, descriptorOf("12345"));
  EXPECT_EQ(codeOf(answer), Code::RegistryDenied);
  EXPECT_NE(textOf(answer).find(store.address()), std::string::npos) << textOf(answer);
  EXPECT_EQ(store.seen().size(), 1U);
}

// A blob that breaks after each `piece` bytes, and what the server does when it is asked to go on.
class ResumeTest : public ClientTest {
 protected:
  static constexpr std::size_t kPiece = 100'000;
  enum class Way { Range, Whole, WrongRange, WrongTotal, NotSatisfiable };

  Result<std::string> fetchBy(Way way, bool lengths = true) {
    ways_.clear();
    FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
      auto range = request.header("range");
      ways_.push_back(range + "|" + request.header("if-range"));
      std::size_t from = range.empty() ? 0 : std::strtoul(range.c_str() + 6, nullptr, 10);
      if (!range.empty() && way == Way::NotSatisfiable) return (void)connection.answer(416, "");
      bool partial = !range.empty() && way != Way::Whole;
      if (way == Way::WrongRange && partial) from = 1;
      std::string head = partial ? fmt::format("HTTP/1.1 206 x\r\nContent-Range: bytes {}-{}/{}\r\n", from,
                                               blob_.size() - 1, blob_.size() + (way == Way::WrongTotal ? 1 : 0))
                                 : "HTTP/1.1 200 x\r\n";
      std::string body = partial ? blob_.substr(from) : blob_;
      if (lengths) head += fmt::format("Content-Length: {}\r\n", body.size());
      connection.send(head + "ETag: \"tag\"\r\n\r\n");
      // Of an answer that begins anew, some more each time.
      connection.send(body.substr(0, partial ? kPiece : kPiece * ways_.size()));
      connection.close();
    });
    auto registry = this->registry(server);
    return fetch(registry, descriptorOf(blob_));
  }

  std::string blob_ = someBytes(250'000);
  std::vector<std::string> ways_;  // "Range|If-Range" of the requests
};

TEST_F(ResumeTest, ByRange) {
  auto fetched = fetchBy(Way::Range);
  ASSERT_TRUE(fetched) << textOf(fetched);
  EXPECT_EQ(*fetched, blob_);
  std::vector<std::string> expected{"|", "bytes=100000-|\"tag\"", "bytes=200000-|\"tag\""};
  EXPECT_EQ(ways_, expected);
}

TEST_F(ResumeTest, WithoutLengths) {
  auto fetched = fetchBy(Way::Range, false);
  ASSERT_TRUE(fetched) << textOf(fetched);
  EXPECT_EQ(*fetched, blob_);
}

TEST_F(ResumeTest, FromTheBeginning) {
  for (auto way : {Way::Whole, Way::WrongRange, Way::WrongTotal, Way::NotSatisfiable}) {
    auto fetched = fetchBy(way);
    ASSERT_TRUE(fetched) << static_cast<int>(way) << ": " << textOf(fetched);
    EXPECT_EQ(*fetched, blob_);
    EXPECT_EQ(ways_[1], "bytes=100000-|\"tag\"");
  }
  EXPECT_EQ(ways_[2], "|");
}

TEST_F(ClientFaults, BrokenForGood) {
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) { connection.close(); });
  auto registry = this->registry(server);
  auto answer = registry.manifest("latest");
  EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
  EXPECT_NE(textOf(answer).find(server.address()), std::string::npos);
  EXPECT_GE(server.seen().size(), 4U);
  auto nobody = registryAt("127.0.0.1:1");
  EXPECT_EQ(codeOf(nobody.manifest("latest")), Code::RegistryUnreachable);
}

TEST_F(ClientFaults, Statuses) {
  const std::pair<int, Code> cases[] = {{403, Code::RegistryDenied},
                                        {404, Code::ManifestUnknown},
                                        {400, Code::RegistryUnreachable},
                                        {501, Code::RegistryUnreachable},
                                        {401, Code::RegistryAuthRequired}};
  int status = 0;
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) {
    connection.answer(status, R"({"errors":[{"message":"its own words"}]})");
  });
  auto registry = this->registry(server);
  for (const auto& [number, code] : cases) {
    status = number;
    auto answer = registry.manifest("latest");
    EXPECT_EQ(codeOf(answer), code) << number;
    EXPECT_NE(textOf(answer).find("its own words"), std::string::npos) << textOf(answer);
  }
  EXPECT_EQ(server.seen().size(), 5U);
  for (int number : {408, 429, 500, 502, 503, 504}) {
    std::atomic<int> left = 1;
    FakeServer passing([&, number](const FakeRequest&, FakeConnection& connection) {
      if (left-- > 0) return (void)connection.answer(number, "", "Retry-After: 0\r\n");
      connection.answer(200, kManifest);
    });
    auto one = this->registry(passing);
    EXPECT_TRUE(one.manifest("latest")) << number;
    EXPECT_EQ(passing.seen().size(), 2U) << number;
  }
}

TEST_F(ClientFaults, RetryAfter) {
  std::string header;
  std::atomic<int> left = 1;
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) {
    if (left-- <= 0) return (void)connection.answer(200, kManifest);
    connection.answer(429, R"({"errors":[{"message":"you have reached your pull rate limit"}]})", header);
  });
  auto registry = this->registry(server);
  header = "Retry-After: 2\r\n";
  auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(registry.manifest("latest"));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  left = 1;
  header = "Retry-After: 3600\r\n";
  auto answer = registry.manifest("latest");
  EXPECT_EQ(codeOf(answer), Code::RegistryUnreachable);
  EXPECT_NE(textOf(answer).find("try again in 3600 s"), std::string::npos) << textOf(answer);
  EXPECT_NE(textOf(answer).find("pull rate limit"), std::string::npos) << textOf(answer);
  EXPECT_EQ(server.seen().size(), 3U);
}

TEST_F(ClientFaults, Stalls) {
  options_.stallSeconds = 1;
  std::string blob = someBytes(200'000);
  std::atomic<int> number = 0;
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    auto range = request.header("range");
    std::size_t from = range.empty() ? 0 : std::strtoul(range.c_str() + 6, nullptr, 10);
    if (number++ == 0) return connection.hang();  // no answer at all
    connection.send(range.empty() ? fmt::format("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", blob.size())
                                  : fmt::format("HTTP/1.1 206 x\r\nContent-Length: {}\r\nContent-Range: bytes "
                                                "{}-{}/*\r\n\r\n",
                                                blob.size() - from, from, blob.size() - 1));
    if (number == 2) {
      connection.send(blob.substr(0, 100'000));
      return connection.hang();
    }
    if (number == 3)  // drops, of which none comes late enough to be missed
      for (std::size_t at = from; at < blob.size() && connection.send(blob.substr(at, 10)); at += 10)
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    else
      connection.send(blob.substr(from));
  });
  auto registry = this->registry(server);
  auto fetched = fetch(registry, descriptorOf(blob));
  ASSERT_TRUE(fetched) << textOf(fetched);
  EXPECT_EQ(*fetched, blob);
  EXPECT_GE(number, 4);
}

TEST_F(ClientFaults, ASlowReaderIsNoStall) {
  options_.stallSeconds = 2;
  std::string blob = someBytes(3'000'000);
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) { connection.answer(200, blob); });
  auto registry = this->registry(server);
  std::string bytes;
  auto status = registry.blob(descriptorOf(blob), stop_.get_token(), [&](std::string_view part) -> Status {
    if (bytes.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(4500));
    bytes += part;
    return {};
  });
  EXPECT_TRUE(status) << textOf(status);
  EXPECT_EQ(bytes, blob);
  EXPECT_EQ(server.connections(), 1);
}

TEST_F(ClientFaults, TheSinksErrorEndsIt) {
  std::string blob = someBytes(3'000'000);
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) { connection.answer(200, blob); });
  auto registry = this->registry(server);
  auto status = registry.blob(descriptorOf(blob), stop_.get_token(),
                              [&](std::string_view) -> Status { return Error(Code::NoSpace, "full"); });
  EXPECT_EQ(codeOf(status), Code::NoSpace);
  EXPECT_EQ(server.seen().size(), 1U);
}

// Without a limit of time: a wait that does not end for the stop does not end at all, or with another error.
TEST_F(ClientFaults, CanceledAnywhere) {
  options_.stallSeconds = 0;
  std::string blob = someBytes(200'000);
  std::atomic<int> arrived = 0;
  FakeServer server([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.target == "/v2/a/b/manifests/later") {
      connection.answer(503, "", "Retry-After: 59\r\n");
      ++arrived;
      return;
    }
    if (request.target.find("/blobs/") != std::string::npos)
      connection.send("HTTP/1.1 200 x\r\nContent-Length: 200000\r\n\r\n" + blob.substr(0, 1000));
    ++arrived;
    connection.hang();
  });
  auto canceled = [&](auto call) {
    stop_ = std::stop_source();
    arrived = 0;
    std::thread stopper([&, stop = stop_]() mutable {
      while (arrived == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      stop.request_stop();
    });
    EXPECT_EQ(call(), Code::Canceled);
    stopper.join();
  };
  canceled([&] { return codeOf(registry(server).manifest("latest")); });
  canceled([&] { return codeOf(registry(server).manifest("later")); });
  canceled([&] {
    auto one = registry(server);
    return codeOf(fetch(one, descriptorOf(blob)));
  });
  // Waiting for the server's half of the handshake, and for a name.
  FakeServer silent([](const FakeRequest&, FakeConnection&) {});
  canceled([&] {
    arrived = 1;
    return codeOf(registryAt(silent.address(), {}, false, false).manifest("latest"));
  });
  resolverWaits = true;
  canceled([&] {
    arrived = 1;
    return codeOf(registryAt("unanswered.test", {}, false, false).manifest("latest"));
  });
  resolverWaits = false;
}

TEST_F(ClientFaults, ForeignLayers) {
  std::string blob = someBytes(200'000);
  FakeServer broken([&](const FakeRequest&, FakeConnection& connection) {
    connection.send("HTTP/1.1 200 x\r\nContent-Length: 200000\r\n\r\n" + blob.substr(0, 50'000));
    connection.close();
  });
  std::string range;
  FakeServer good([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.target != "/layer?sig=abc") return (void)connection.answer(404, "");
    range = request.header("range");
    connection.answer(206, blob.substr(50'000), "Content-Range: bytes 50000-199999/200000\r\n");
  });
  auto descriptor = descriptorOf(blob);
  auto fetchFrom = [&](Registry registry, const std::vector<std::string>& urls) -> Result<std::string> {
    std::string bytes;
    USERPOD_CHECK(registry.externalBlob(urls, descriptor, stop_.get_token(), [&](std::string_view part) -> Status {
      bytes += part;
      return {};
    }));
    return bytes;
  };
  std::string at = "http://" + good.address();
  auto fetched = fetchFrom(registry(good, {.username = "user", .password = "word"}),
                           {"ftp://x/", at + "/none", "http://" + broken.address() + "/", at + "/layer?sig=abc"});
  ASSERT_TRUE(fetched) << textOf(fetched);
  EXPECT_EQ(*fetched, blob);
  EXPECT_EQ(range, "bytes=50000-");
  for (const auto& sent : good.authorizations()) EXPECT_EQ(sent, "");
  auto refused = fetchFrom(registry(good), {at + "/none?sig=abc"});
  EXPECT_EQ(codeOf(refused), Code::RegistryUnreachable);
  EXPECT_EQ(textOf(refused).find("sig="), std::string::npos);
  auto seen = good.seen().size();
  EXPECT_EQ(codeOf(fetchFrom(registryAt("registry.example", {}, false, false), {at + "/layer?sig=abc"})),
            Code::RegistryUnreachable);
  EXPECT_EQ(good.seen().size(), seen);  // not by http
}

TEST_F(ClientFaults, IPv6) {
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) { connection.answer(200, kManifest); }, {},
                    "::1");
  if (server.port() == 0) GTEST_SKIP() << "no IPv6 on loopback";
  auto answer = registry(server).manifest("latest");
  EXPECT_TRUE(answer) << textOf(answer);
}

TEST_F(ClientFaults, ManyThreads) {
  std::string blob = someBytes(1'000'000);
  FakeServer server([&](const FakeRequest&, FakeConnection& connection) { connection.answer(200, blob); });
  auto registry = this->registry(server);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 5; ++j) EXPECT_EQ(*fetch(registry, descriptorOf(blob)), blob);
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(server.seen().size(), 20U);
  EXPECT_LE(server.connections(), 4);
}

}  // namespace
}  // namespace userpod::images
