// The streaming server's parts without a network: tokens, which protocol a request is answered with, how an end is
// told.
#include <gtest/gtest.h>
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "daemon/streaming/negotiation.hpp"
#include "daemon/streaming/spdy.hpp"

namespace userpod::streaming {
namespace {

using namespace std::chrono_literals;

TEST(Tokens, AreLongAndDiffer) {
  Tokens tokens;
  auto first = tokens.add(Exec{"a", {}});
  auto second = tokens.add(Exec{"a", {}});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->size(), 64U);
  EXPECT_NE(*first, *second);
}

TEST(Tokens, AreGoodOnce) {
  Tokens tokens;
  auto token = tokens.add(PortForward{"pod", {80}});
  auto found = tokens.find(*token);
  ASSERT_TRUE(found);
  EXPECT_EQ(std::get<PortForward>(*found).podId, "pod");
  EXPECT_TRUE(tokens.find(*token)) << "a look does not use it up";
  EXPECT_TRUE(tokens.consume(*token));
  EXPECT_FALSE(tokens.consume(*token));
  EXPECT_FALSE(tokens.find(*token));
  EXPECT_FALSE(tokens.find(""));
  EXPECT_FALSE(tokens.find(std::string(64, 'a')));
}

TEST(Tokens, EndAfterAMinute) {
  Tokens tokens;
  auto begin = Tokens::Clock::now();
  auto token = tokens.add(Exec{"a", {}}, begin);
  EXPECT_TRUE(tokens.find(*token, begin + 59s));
  EXPECT_FALSE(tokens.find(*token, begin + 60s));
}

TEST(Tokens, OfAThousandNoMoreAreGiven) {
  Tokens tokens;
  auto begin = Tokens::Clock::now();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(tokens.add(Exec{"a", {}}, begin));
  auto refused = tokens.add(Exec{"a", {}}, begin + 1s);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::LimitsExceeded);
  EXPECT_TRUE(tokens.add(Exec{"a", {}}, begin + 60s)) << "old ones make room";
}

Request request(http::verb method, std::vector<std::pair<std::string, std::string>> headers) {
  Request made(method, "/exec/x", 11);
  for (const auto& [name, value] : headers) made.insert(name, value);
  return made;
}
Request spdyRequest(std::vector<std::string> protocols) {
  auto made = request(http::verb::post, {{"Connection", "Upgrade"}, {"Upgrade", "SPDY/3.1"}});
  for (const auto& protocol : protocols) made.insert("X-Stream-Protocol-Version", protocol);
  return made;
}
Request socketRequest(const std::string& protocols) {
  auto made = request(http::verb::get, {{"Connection", "keep-alive, upgrade"}, {"Upgrade", "WebSocket"}});
  if (!protocols.empty()) made.insert("Sec-WebSocket-Protocol", protocols);
  return made;
}

Protocol chosen(const Request& request, const SessionRequest& session) {
  auto answer = negotiate(request, session);
  if (auto* refusal = std::get_if<Refusal>(&answer)) {
    ADD_FAILURE() << refusal->text;
    return {};
  }
  return std::get<Protocol>(answer);
}
unsigned refused(const Request& request, const SessionRequest& session) {
  auto answer = negotiate(request, session);
  auto* refusal = std::get_if<Refusal>(&answer);
  return refusal != nullptr ? static_cast<unsigned>(refusal->status) : 0;
}

TEST(Negotiation, TakesTheFirstThatTheClientNamesAndWeSpeak) {
  auto one = chosen(spdyRequest({"v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"}), Exec{});
  EXPECT_EQ(one.name, "v4.channel.k8s.io");
  EXPECT_EQ(one.format, StatusFormat::Json);
  EXPECT_TRUE(one.resizes);
  auto list = chosen(spdyRequest({"nonsense, v2.channel.k8s.io , v4.channel.k8s.io"}), Attach{});
  EXPECT_EQ(list.name, "v2.channel.k8s.io");
  EXPECT_EQ(list.format, StatusFormat::Text);
  EXPECT_FALSE(list.resizes);
  EXPECT_EQ(chosen(spdyRequest({"portforward.k8s.io"}), PortForward{}).transport, Transport::Spdy);
}

TEST(Negotiation, WebSocketsHaveFlavours) {
  auto five = chosen(socketRequest("v5.channel.k8s.io, v4.channel.k8s.io"), Exec{});
  EXPECT_TRUE(five.closeSignals);
  EXPECT_FALSE(five.base64);
  auto base64 = chosen(socketRequest("v4.base64.channel.k8s.io"), Exec{});
  EXPECT_TRUE(base64.base64);
  EXPECT_EQ(base64.format, StatusFormat::Json);
  EXPECT_EQ(chosen(socketRequest(""), Exec{}).name, "");
  EXPECT_EQ(chosen(socketRequest("SPDY/3.1+portforward.k8s.io"), PortForward{}).transport, Transport::SpdyInWebSocket);
  EXPECT_EQ(chosen(socketRequest("v4.channel.k8s.io"), PortForward{"", {80}}).transport, Transport::WebSocket);
}

TEST(Negotiation, RefusesWithWhatIsSpoken) {
  auto answer = negotiate(spdyRequest({"v9.channel.k8s.io"}), Exec{});
  auto* refusal = std::get_if<Refusal>(&answer);
  ASSERT_NE(refusal, nullptr);
  EXPECT_EQ(refusal->status, http::status::forbidden);
  EXPECT_EQ(refusal->headers.size(), 4U);
  EXPECT_EQ(refusal->headers[0], "X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io");
  EXPECT_EQ(refused(spdyRequest({}), Exec{}), 400U);
  EXPECT_EQ(refused(spdyRequest({"v4.channel.k8s.io"}), PortForward{}), 403U);
  EXPECT_EQ(refused(socketRequest("portforward.k8s.io"), PortForward{}), 403U);
  EXPECT_EQ(refused(socketRequest("v4.channel.k8s.io"), PortForward{}), 400U) << "no ports";
  EXPECT_EQ(refused(request(http::verb::get, {}), Exec{}), 400U);
  EXPECT_EQ(refused(request(http::verb::get, {{"Upgrade", "SPDY/3.1"}}), Exec{}), 400U) << "no Connection";
  auto posted = socketRequest("");
  posted.method(http::verb::post);
  EXPECT_EQ(refused(posted, Exec{}), 405U);
}

TEST(StatusText, SaysHowItEnded) {
  EXPECT_EQ(statusText(0, StatusFormat::Text), "");
  EXPECT_EQ(statusText(7, StatusFormat::Text), "command terminated with exit code 7");
  EXPECT_EQ(nlohmann::json::parse(statusText(0, StatusFormat::Json)).at("status"), "Success");
  auto seven = nlohmann::json::parse(statusText(7, StatusFormat::Json));
  EXPECT_EQ(seven.at("status"), "Failure");
  EXPECT_EQ(seven.at("reason"), "NonZeroExitCode");
  EXPECT_EQ(seven.at("details").at("causes").at(0), (nlohmann::json{{"reason", "ExitCode"}, {"message", "7"}}));
  auto failed = nlohmann::json::parse(statusText(Error(Code::RuntimeFailed, "no \xff program"), StatusFormat::Json));
  EXPECT_EQ(failed.at("reason"), "InternalError");
  EXPECT_EQ(failed.at("code"), 500);
  EXPECT_NE(failed.at("message").get<std::string>().find("program"), std::string::npos);
}

TEST(Spdy, DictionaryIsThatOfTheDraft) {
  const std::string& words = spdy::dictionary();
  EXPECT_EQ(words.size(), 1423U);
  EXPECT_EQ(::adler32(1, reinterpret_cast<const Bytef*>(words.data()), static_cast<uInt>(words.size())), 0xe3c6a7c2U);
}

}  // namespace
}  // namespace userpod::streaming
