// opencv BUNDLE CAMERA|VIDEO|IMAGE: OpenCV's frames as they are, blue first, rows wherever they lie.
#include <edgekd/edgekd.hpp>

#include <opencv2/videoio.hpp>

#include <cctype>
#include <iostream>
#include <string>

int main(int count, char **words) try {
    if (count != 3) {
        std::cerr << "usage: opencv BUNDLE CAMERA|VIDEO|IMAGE\n";
        return 2;
    }
    auto engine = edgekd::Engine::open(words[1]);
    const std::string source = words[2];
    cv::VideoCapture capture;
    const bool number = source.size() == 1 && std::isdigit(static_cast<unsigned char>(source[0]));
    if (!(number ? capture.open(source[0] - '0') : capture.open(source))) {
        std::cerr << source << " cannot be opened\n";
        return 1;
    }
    cv::Mat frame;
    while (capture.read(frame)) {
        if (frame.depth() != CV_8U) {
            std::cerr << source << " has more than a byte a channel\n";
            return 1;
        }
        const edgekd::Image image{
            frame.data, static_cast<std::uint32_t>(frame.cols), static_cast<std::uint32_t>(frame.rows),
            static_cast<std::uint32_t>(frame.channels()), EDGEKD_BGR, frame.step};
        std::cout << engine.label(engine.run(image).best()) << '\n';
    }
    return 0;
} catch (const edgekd::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
